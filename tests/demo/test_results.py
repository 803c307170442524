import dataclasses
import errno
import json
import math
import os

import pytest

from cotbal.demo.pipeline import Demo
from cotbal.demo.profiles import PROFILES
from cotbal.demo.results import assemble, write_results
from cotbal.demo.statements import noise_errors, statements, verdict
from cotbal.estimate import Scores, estimate_weights
from cotbal.report.seeds import Estimate
from cotbal.runs.store import Record
from cotbal.weights import TaskWeights

TASKS = ("vqa", "bbox")
VALIDATION = {
    "mini": {"vqa": 0.2, "bbox": 0.3},
    "probe vqa": {"vqa": 0.6, "bbox": 0.35},
    "probe bbox": {"vqa": 0.3, "bbox": 0.5},
}
TEST = {
    "STL vqa": {"vqa": 0.50},
    "STL bbox": {"bbox": 0.40},
    "EW": {"vqa": 0.55, "bbox": 0.30, "chat": 0.9},
    "CoTBal": {"vqa": 0.60, "bbox": 0.34, "chat": 0.8},
}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    profile = dataclasses.replace(PROFILES["quick"], name="toy", tasks=TASKS)
    monkeypatch.setitem(PROFILES, "toy", profile)
    return profile


def records(seeds=1, changes=None):
    """Records of every run; `changes`: {(seed, run): {task: score}}."""
    metrics = PROFILES["toy"].metrics
    made = {}
    for seed in range(seeds):
        prefix = f"seed {seed}/" if seeds > 1 else ""
        made[f"{prefix}base"] = Record(f"base{seed}", {"steps": 1, "loss": 0.5}, 100.0, 110.0, 9.0)
        for name, scores in {**VALIDATION, **TEST}.items():
            scores = {**scores, **(changes or {}).get((seed, name), {})}
            items = {task: {metrics[task]: [v - 1e-4, v, v + 1e-4]} for task, v in scores.items()}
            result = {"scores": {t: {metrics[t]: v} for t, v in scores.items()}, "items": items}
            made[prefix + name] = Record(f"{name}{seed}", result, 105.0, 120.0, 4.0)
    return made


def results(seeds=1, changes=None):
    demo = Demo("toy", tuple(range(seeds)))
    return assemble(demo, records(seeds, changes), workers=2, command="cotbal demo")


def test_one_seed_by_hand():
    whole = results()
    seed = whole["by_seed"]["0"]
    assert seed["scores"]["mini"] == VALIDATION["mini"]
    assert seed["scores"]["probes"] == {task: VALIDATION[f"probe {task}"] for task in TASKS}
    # C_vqa,bbox = 0.05 / 0.2, C_bbox,vqa = 0.1 / 0.4; D = 1 - 0.2 / 0.6, 1 - 0.3 / 0.5.
    assert seed["contribution"][0] == pytest.approx([1.0, 0.25])
    assert seed["contribution"][1] == pytest.approx([0.25, 1.0])
    assert seed["difficulty"] == pytest.approx([2 / 3, 0.4])
    assert seed["test"]["STL"] == {"vqa": {"EM": 0.5}, "bbox": {"IoU": 0.4}}
    assert seed["test"]["EW"]["chat"] == {"EM": 0.9}
    assert seed["improvement"]["EW"] == pytest.approx({"vqa": 0.1, "bbox": -0.25})
    assert seed["delta_i"] == pytest.approx({"EW": -7.5, "CoTBal": 2.5})
    assert seed["delta_e"] == pytest.approx({"EW": 12.5, "CoTBal": 7.5})
    assert whole["summary"]["against_EW"]["CoTBal"]["delta_i"] == {
        "mean": pytest.approx(10.0),
        "stderr": None,
    }
    assert whole["metrics"] == {"vqa": "EM", "bbox": "IoU", "chat": "EM"}
    assert (whole["tasks"], whole["fixed"], whole["seeds"]) == (["vqa", "bbox"], {"chat": 1.0}, [0])


def test_weights_are_those_of_every_rule_with_the_fixed_task():
    scores = Scores(TASKS, [0.2, 0.3], [[0.6, 0.35], [0.3, 0.5]])
    for rule, weights in results()["by_seed"]["0"]["weights"].items():
        assert weights == pytest.approx(dict(estimate_weights(scores, rule=rule, fixed={"chat": 1.0})))


def test_difference_from_equal_weights_is_paired_by_seed():
    changes = {(1, "EW"): {"vqa": 0.65}, (1, "CoTBal"): {"vqa": 0.7}, (2, "CoTBal"): {"vqa": 0.55}}
    against = results(3, changes)["summary"]["against_EW"]["CoTBal"]
    # Differences of dI by seed: 10, 10, 5.
    assert against["delta_i"]["mean"] == pytest.approx(25 / 3)
    assert against["delta_i"]["stderr"] == pytest.approx(math.sqrt(25 / 3) / math.sqrt(3))
    assert against["delta_e"] == {"mean": pytest.approx(-5.0), "stderr": pytest.approx(0.0)}


def test_task_whose_probe_gains_nothing_is_named_and_has_no_contribution():
    whole = results(2, {(1, "probe bbox"): {"bbox": 0.3}})
    assert whole["by_seed"]["1"]["unidentified"] == ["bbox"]
    assert whole["by_seed"]["1"]["contribution"][0] == [1.0, None]
    (sentence,) = (text for text in whole["statements"] if "not identified" in text)
    assert "contribute to bbox" in sentence
    assert "in 1 of 2 seeds" in sentence
    json.dumps(whole, allow_nan=False)


def test_single_task_model_that_scores_0_leaves_the_improvement_open():
    whole = results(changes={(0, "STL bbox"): {"bbox": 0.0}})
    seed = whole["by_seed"]["0"]
    assert seed["improvement"]["EW"] == {"vqa": pytest.approx(0.1), "bbox": None}
    assert seed["delta_i"] == {"EW": None, "CoTBal": None}
    assert whole["statements"][0] == "CoTBal against EW: not defined, as a single-task model scored 0."


def test_one_seed_claims_nothing():
    text = " ".join(results()["statements"])
    assert "One seed cannot tell this from noise" in text
    assert "`cotbal demo --full` runs three" in text
    assert "beyond" not in text


@pytest.mark.parametrize(
    ("mean", "seeds", "place"),
    [(2.0, 3, "inside"), (4.2, 3, "inside"), (-4.4, 3, "beyond"), (2.0, 8, "inside"), (2.5, 8, "beyond")],
)
def test_verdict_weighs_the_difference_against_the_seed_noise(mean, seeds, place):
    sentence = verdict("M", {"delta_i": Estimate(mean, 1.0), "delta_e": Estimate(0.0, 1.0)}, seeds)
    assert f"ΔI% {mean:+.2f} ± 1.00, {place} the seed noise" in sentence
    assert "ΔE% +0.00 ± 1.00, inside the seed noise" in sentence


def test_noise_is_never_less_than_two_standard_errors():
    assert all(noise_errors(seeds) >= noise_errors(seeds + 1) > 2.0 for seeds in range(2, 30))


def test_statements_of_several_seeds_explain_the_noise():
    assert any("within 4.3 standard errors" in text for text in statements(results(3)))


def test_seconds_count_once_and_pauses_do_not():
    made = records()
    made["EW"] = dataclasses.replace(made["EW"], started=500.0, finished=507.0)
    made["same run"] = made["EW"]
    made["mini"] = dataclasses.replace(made["mini"], started=501.0, finished=502.0)
    made["CoTBal"] = dataclasses.replace(made["CoTBal"], started=503.0, finished=504.0)
    run = assemble(Demo("toy", (0,)), made, workers=2, command="cotbal demo")["run"]
    # 100 to 120 and 500 to 507; a base of 9 s and seven others of 4 s.
    assert run["wall_seconds"] == pytest.approx(27.0)
    assert run["cpu_seconds"] == pytest.approx(9 + 7 * 4)
    assert (run["workers"], run["command"], run["runs"]) == (2, "cotbal demo", 8)


def test_files_hold_what_the_results_say(tmp_path):
    demo, made = Demo("toy", (0, 1)), records(2)
    whole = assemble(demo, made, workers=2, command="cotbal demo")
    files = write_results(demo, made, whole, tmp_path)
    assert json.loads(files["results"].read_text()) == whole
    for seed in (0, 1):
        weights = TaskWeights.load(tmp_path / f"seed-{seed}" / "weights.json")
        assert dict(weights) == whole["by_seed"][str(seed)]["weights"]["cotbal"]
        scores = Scores.from_csv(tmp_path / f"seed-{seed}" / "scores.csv")
        assert scores.mini.tolist() == list(VALIDATION["mini"].values())
    assert all(path.exists() for path in files.values())


def test_full_disk_keeps_the_old_results(tmp_path, monkeypatch):
    demo, made = Demo("toy", (0,)), records()
    whole = assemble(demo, made, workers=2, command="cotbal demo")
    write_results(demo, made, whole, tmp_path)
    before = (tmp_path / "results.json").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_results(demo, made, {**whole, "seeds": [7]}, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before
    assert not list(tmp_path.glob(".results*"))
