"""docs/estimate.md names every key and every placeholder, and its example is a valid file."""

import re
from pathlib import Path

import pytest

from cotbal.project.config import Evaluate, Project, Task, Train, load_project
from cotbal.project.resources import Resources, Slurm
from cotbal.project.template import EVALUATE, TRAIN

TEXT = (Path(__file__).parents[2] / "docs" / "estimate.md").read_text()


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        (Project, ""),
        (Task, ""),
        (Train, "train."),
        (Evaluate, "evaluate."),
        (Resources, "resources."),
        (Slurm, "slurm."),
    ],
)
def test_every_key_is_told(model, prefix):
    rows = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
    told = set(re.findall(r"`([^`]+)`", " ".join(rows)))
    assert {prefix + name for name in model.model_fields} <= told


def test_every_placeholder_is_told_in_its_table():
    train, evaluate = TEXT.split("| placeholder of an evaluation")
    for text, known in ((train.split("| placeholder of a training")[1], TRAIN), (evaluate, EVALUATE)):
        rows = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `{"))
        assert set(re.findall(r"`\{(\w+)\}`", rows)) == set(known)


def test_example_is_a_valid_file_and_so_it_is_with_the_resources_of_slurm(tmp_path):
    path = tmp_path / "estimate.yaml"
    local, slurm = (part.split("```")[0] for part in TEXT.split("```yaml\n")[1:])
    path.write_text(local)
    assert load_project(path).weighted == ["vqa", "caption", "ocr"]
    path.write_text(local.partition("resources:")[0] + slurm)
    assert load_project(path).resources.executor == "slurm"
