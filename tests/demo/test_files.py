"""The digit world as files: the functions of `digits.yaml` give what the demo's own runs give."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.demo import job
from cotbal.demo.files import write_base, write_world
from cotbal.demo.functions import evaluate, train
from cotbal.demo.profiles import PROFILES
from cotbal.demo.records import mixture
from cotbal.estimate import Scores
from cotbal.project import recipe_files
from cotbal.project.config import load_project
from cotbal.weights import TaskWeights

MICRO = PROFILES["micro"]
RECIPE = next(path for path in recipe_files() if path.name == "digits.yaml")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, "micro", 0)
    write_base(folder / "base", MICRO, 0)
    return folder


def test_functions_on_files_give_the_bits_of_the_demo_s_run(world: Path, tmp_path: Path) -> None:
    data = {"caption": "mini", "regcap": "full"}
    weights = {"caption": 0.2, "regcap": 1.8}
    lines = {task: (world / "train" / f"{task}.jsonl").read_text().splitlines() for task in data}
    chosen = [lines[task][place] for task, places in mixture(MICRO, 0, data) for place in places]
    (tmp_path / "data.jsonl").write_text("\n".join(chosen) + "\n")
    TaskWeights(weights).save(tmp_path / "weights.json")
    (tmp_path / "model").mkdir()
    done: list[int] = []
    common = {"profile": "micro", "images": str(world / "images")}
    train(
        done.append,
        data=str(tmp_path / "data.jsonl"),
        base_model=str(world / "base"),
        weights=str(tmp_path / "weights.json"),
        seed="0",
        output=str(tmp_path / "model"),
        **common,
    )
    assert done[-1] == MICRO.epochs * len(chosen) > done[-2]
    settings = {"kind": "train", "profile": "micro", "seed": 0, "data": data, "weights": weights}
    settings |= {"weighting": "static", "split": "validation", "evaluate": ["regcap"]}
    expected = job.run(settings, tmp_path, lambda done: None)["items"]["regcap"]["CIDEr"]
    equal = job.run(settings | {"weights": None}, tmp_path, lambda done: None)["items"]["regcap"]["CIDEr"]
    assert equal != expected
    model, scores = str(tmp_path / "model"), tmp_path / "scores.json"
    questions = str(world / "validation" / "regcap.jsonl")
    evaluate(done.append, model=model, task="regcap", data=questions, scores=str(scores), **common)
    assert json.loads(scores.read_text()) == {"score": sum(expected) / len(expected), "items": expected}
    assert done[-1] == MICRO.evaluation_items


def test_recipe_says_what_the_quick_profile_says() -> None:
    project, profile = load_project(RECIPE), PROFILES["quick"]
    assert project.weighted == list(profile.tasks)
    assert project.fixed == dict(profile.fixed)
    assert {task: project.tasks[task].metric for task in profile.tasks} == {
        task: profile.metrics[task] for task in profile.tasks
    }
    assert (project.train.epochs, project.train.batch_size) == (profile.epochs, profile.batch_size)
    assert float(project.ratio) == profile.mini_ratio
    listed = CliRunner().invoke(app, ["plan", "--recipes"]).stdout.splitlines()
    assert str(RECIPE) in listed
    assert len(listed) == len(recipe_files())


@pytest.mark.full
@pytest.mark.timeout(600)
def test_recipe_runs_through_the_same_verbs(world: Path, tmp_path: Path) -> None:
    text = RECIPE.read_text().replace("profile=quick", "profile=micro").replace("digits/", f"{world}/")
    kept = [line for line in text.splitlines() if not re.match(r"  (vqa|rel|chart|ocr|bbox): ", line)]
    (tmp_path / "digits.yaml").write_text("\n".join(kept))
    done = CliRunner().invoke(app, ["run", str(tmp_path / "digits.yaml"), "--json"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["weights"]["0"]) == {"caption", "regcap", "chat"}
    scores = Scores.from_csv(tmp_path / "estimate-digits" / "scores.csv")
    assert (scores.probes.diagonal() > scores.mini).all()
    again = CliRunner().invoke(app, ["run", str(tmp_path / "digits.yaml"), "--json"])
    assert "all 9 runs are finished" in again.stderr

    compared = CliRunner().invoke(
        app, ["compare", str(tmp_path / "digits.yaml"), "--suite", "table2", "--json"]
    )
    assert compared.exit_code == 0, compared.output
    table = json.loads(compared.stdout)
    assert [row["name"] for row in table["methods"]] == ["STL", "EW", "TLA", "RLW", "DWA", "IGBv1", "CoTBal"]
    assert {column["source"] for column in table["columns"]} == {"test"}
    scores_of = [tuple(row["scores"].values()) for row in table["methods"]]
    # IGBv1's weights are 1 for its first 200 steps, and there are fewer.
    assert len(set(scores_of)) == 6
    assert scores_of[1] == scores_of[5]
    assert all(row["delta_i_interval"] for row in table["methods"])
