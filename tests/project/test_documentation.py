"""docs/estimate.md names every key and every placeholder, and its example is a valid file."""

import re
from pathlib import Path

import pytest
import yaml

from cotbal.balancing import by_name
from cotbal.project.config import Project, load_project
from cotbal.project.methods import DYNAMIC, NAMES, SUITES
from cotbal.project.parts import Evaluate, Task, Train
from cotbal.project.resources import Resources, Slurm
from cotbal.project.template import EVALUATE, TRAIN

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "estimate.md").read_text()


OF_MODEL = pytest.mark.parametrize(
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


@pytest.mark.parametrize("document", ["README.md", "docs/estimate.md"])
def test_the_install_line_brings_what_the_page_and_the_comparison_need(document):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "cotbal report estimate.yaml" in block)
    extras = re.search(r'pip install ".*\[(.*)\]"', block)
    assert extras is not None
    assert extras[1].split(",") == ["estimate", "report"]


@OF_MODEL
def test_every_key_is_told(model, prefix):
    rows = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
    told = set(re.findall(r"`([^`]+)`", " ".join(rows)))
    assert {prefix + name for name in model.model_fields} <= told


@OF_MODEL
def test_the_defaults_that_are_told_are_those_of_the_code(model, prefix):
    told = {}
    for table in TEXT.split("| what | default |")[1:]:
        for line in table.split("\n\n")[0].splitlines()[2:]:
            _, names, _, defaults, _ = line.split("|")
            keys, texts = re.findall(r"`([^`]+)`", names), defaults.strip().split(", ")
            told |= dict(zip(keys, texts if len(texts) == len(keys) else texts * len(keys), strict=False))
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=True)
        if not field.is_required() and value not in (None, {}, Resources()):
            assert yaml.safe_load(told[prefix + name]) == value, name


def test_every_placeholder_is_told_in_its_table():
    train, evaluate = TEXT.split("| placeholder of an evaluation")
    for text, known in ((train.split("| placeholder of a training")[1], TRAIN), (evaluate, EVALUATE)):
        rows = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `{"))
        assert set(re.findall(r"`\{(\w+)\}`", rows)) == set(known)


def test_every_method_and_suite_is_told_with_the_options_of_its_rule():
    methods, suites = TEXT.split("| method | what is trained")[1].split("| suite |")
    rows = [line.split("|") for line in methods.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(row[1] for row in rows))) >= set(NAMES)
    (options,) = [row[3] for row in rows if "`DWA`" in row[1]]
    told = dict(part.strip().split(": ") for part in options.split(";"))
    for name in DYNAMIC:
        assert told.get(name, "") == ", ".join(by_name(name.lower()).options)
    named = set(re.findall(r"^\| `(\w+)`", suites.split("\n\n")[0], re.MULTILINE))
    assert named == {*SUITES, "figure1b"}


def test_example_is_a_valid_file_and_so_it_is_with_the_resources_of_slurm(tmp_path):
    path = tmp_path / "estimate.yaml"
    local, slurm = (part.split("```")[0] for part in TEXT.split("```yaml\n")[1:])
    path.write_text(local)
    assert load_project(path).weighted == ["vqa", "caption", "ocr"]
    path.write_text(local.partition("resources:")[0] + slurm)
    assert load_project(path).resources.executor == "slurm"
