import json
import sys

import pytest
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.estimate import Scores
from cotbal.estimate.items_json import read_items
from tests.cli.commands import call
from tests.collect.publishers import lmms_eval, visatb, write_table
from tests.collect.test_table import RUNS, items

TASKS = [
    "--task",
    "vqa: format=lmms-eval from=vqav2_val_lite metric=exact_match",
    "--task",
    "ocr: format=visatb from=vqa-val-6_*.json metric=EM",
]
FOLDERS = [text for run in RUNS for text in ("--run", f"{run}=eval/{run}")]
WRITTEN = ("scores.csv", "scores.items.json", "scores.provenance.json")


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """Three runs' files of two tools, and a table from before."""
    monkeypatch.chdir(tmp_path)
    for run in RUNS:
        lmms_eval(tmp_path / "eval" / run, items(run))
        visatb(tmp_path / "eval" / run, items(run, "ocr"))
    for name in WRITTEN:
        (tmp_path / name).write_text("old")
    return tmp_path


def test_the_table_and_its_items_become_weights_with_intervals(evaluated):
    done = call("collect", *FOLDERS, *TASKS)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "vqa: exact_match of vqav2_val_lite (10 items, higher is better)" in done.stdout
    assert "rule=strict" in done.stdout
    assert "Wrote scores.csv, scores.provenance.json, scores.items.json." in done.stdout
    read = read_items(evaluated / "scores.items.json")
    scores = Scores.from_csv(evaluated / "scores.csv", items=read.items)
    for place, run in enumerate(RUNS):
        row = [scores.mini, *scores.probes][place].tolist()
        assert row == [sum(each) / len(each) for each in read.items[run].values()]
    assert read.clusters == {"ocr": [n // 2 for n in range(12)]}
    weighed = call("weights", "scores.csv", "--items", "scores.items.json", "--rule", "difficulty")
    assert weighed.exit_code in (0, 2), weighed.stderr
    assert "bootstrap" in weighed.stdout or "standard errors" in weighed.stderr


@pytest.mark.parametrize(("factor", "doubted"), [(100, True), (1, False)])
def test_sets_of_a_task_in_two_scales_are_told_of_before_their_mean_hides_them(
    tmp_path, monkeypatch, factor, doubted
):
    monkeypatch.chdir(tmp_path)
    for run, first, second in (("mini", 0.30, 0.60), ("vqa", 0.60, 0.66), ("ocr", 0.33, 0.61)):
        write_table(tmp_path / run / "a.csv", [{"EM": first}])
        write_table(tmp_path / run / "b.csv", [{"EM": factor * second}])
    folders = [text for run in RUNS for text in ("--run", f"{run}={run}")]
    sets = [("vqa", "a"), ("vqa", "b"), ("ocr", "a")]
    texts = [f"{task}: format=csv from={name}.csv metric=EM better=higher" for task, name in sets]
    done = call("collect", *folders, *[t for text in texts for t in ("--task", text)])
    assert done.exit_code == 0, done.stderr
    told = "task 'vqa': 0.3 in row 'mini of a.csv' and 66 in row 'vqa of b.csv'; if one is a share"
    assert done.stderr.startswith(told) if doubted else done.stderr == ""


def test_several_sets_of_a_task_stay_apart_up_to_the_intervals(tmp_path, monkeypatch):
    """Sets of 300 and 10 items: the interval is that of a mean of two means, from each one's own noise."""
    monkeypatch.chdir(tmp_path)
    right = {"mini": (0.5, 0.5, 0.3), "box": (0.9, 0.9, 0.4), "other": (0.52, 0.5, 0.8)}
    for run, shares in right.items():
        for name, size, share in zip(("large", "small", "one"), (300, 10, 300), shares, strict=True):
            rows = [{"id": n, "hit": int(n < share * size)} for n in range(size)]
            write_table(tmp_path / run / f"{name}.csv", rows)
    folders = [text for run in right for text in ("--run", f"{run}={run}")]
    sets = [("box", "large"), ("box", "small"), ("other", "one")]
    texts = [f"{task}: format=csv from={name}.csv metric=hit better=higher" for task, name in sets]
    assert call("collect", *folders, *[t for text in texts for t in ("--task", text)]).exit_code == 0
    read = read_items(tmp_path / "scores.items.json")
    assert read.strata == {"box": [0] * 300 + [1] * 10}
    assert set(read.items["mini"]["box"]) == {0.0, 1.0}
    error = (0.5 * 0.5 / 299 + 0.5 * 0.5 / 9) ** 0.5 / 2
    weighed = call("weights", "scores.csv", "--items", "scores.items.json", "--json")
    assert weighed.exit_code == 0, weighed.stderr
    low, high = json.loads(weighed.stdout)["uncertainty"]["mini"][0]
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_the_json_has_scores_files_and_rules(evaluated):
    done = CliRunner().invoke(app, ["collect", *FOLDERS, *TASKS, "--json", "--out", "new/t.csv"])
    assert done.exit_code == 0
    summary = json.loads(done.stdout)
    assert summary["runs"]["mini"]["vqa"] == pytest.approx(0.3)
    assert summary["written"] == ["new/t.csv", "new/t.provenance.json", "new/t.items.json"]
    assert json.loads((evaluated / "new" / "t.provenance.json").read_text()) == summary["provenance"]
    assert summary["provenance"]["runs"]["ocr"] == "eval/ocr"


def test_two_tables_in_one_folder_keep_their_items(evaluated):
    assert call("collect", *FOLDERS, *TASKS, "--out", "a.csv").exit_code == 0
    first = (evaluated / "a.items.json").read_bytes()
    lmms_eval(evaluated / "eval" / "new", items("ocr"))
    visatb(evaluated / "eval" / "new", items("mini", "ocr"))
    assert call("collect", "--run", "mini=eval/new", *FOLDERS[2:], *TASKS, "--out", "b.csv").exit_code == 0
    assert (evaluated / "a.items.json").read_bytes() == first
    assert (evaluated / "b.items.json").read_bytes() != first


def assert_refused(done, folder, message):
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert {name: (folder / name).read_text() for name in WRITTEN} == dict.fromkeys(WRITTEN, "old")
    assert {path.name for path in folder.iterdir()} == {*WRITTEN, "eval"}


SAMPLES, RESULTS, ANSWERS = "**/*_samples_*.jsonl", "**/*_results.json", "vqa-val*.json"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (SAMPLES, "", "", "lite.jsonl: line 10: expected JSON, is it whole?"),
        (RESULTS, "", "", "_results.json: expected JSON, is it whole?"),
        (ANSWERS, "", "", "mini.json: expected JSON, is it whole?"),
        (ANSWERS, '"id": "5"', '"id": "6"', "record 2, field 'id': id '6' stands twice"),
        (ANSWERS, '"id": "5"', '"id": "99"', "without 5 (1 in all) and with 99"),
        (RESULTS, " 0.7,", " NaN,", "field 'exact_match,none': expected a finite number, got nan"),
        (RESULTS, " 0.7,", " 0.4,", "gives the score 0.4, the mean of the items in"),
        (
            SAMPLES,
            '_match": 0.0',
            '_match": null',
            "line 4, field 'exact_match': expected a number, got None",
        ),
        (SAMPLES, '"doc_hash": "', '"doc_hash": "x', "task 'vqa': expected the items of run 'mini'"),
    ],
)
def test_bad_files_are_one_line_and_nothing_is_written_over(evaluated, file, old, new, message):
    (path,) = (evaluated / "eval" / "vqa").glob(file)
    text = path.read_text()
    changed = text.replace(old, new, 1) if old else text[:-20]
    assert changed != text
    path.write_text(changed)
    assert_refused(CliRunner().invoke(app, ["collect", *FOLDERS, *TASKS]), evaluated, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*FOLDERS[:4], *TASKS], "--run: missing ocr; the table needs each of mini, vqa, ocr"),
        ([*FOLDERS, "--run", "mini=x", *TASKS], "--run: run 'mini' stands twice"),
        ([*FOLDERS[:4], "--run", "ocr", *TASKS], "--run: expected RUN=FOLDER, got 'ocr'"),
        ([*FOLDERS[:4], "--run", "ocr=none", *TASKS], "none: no such folder"),
        ([*FOLDERS, *TASKS[:3], "ocr: format=csv from=a.csv metric=m"], "eval/mini/a.csv: no such file"),
        ([*FOLDERS, *TASKS[:3], "ocr: format=xyz from=a metric=m"], "format: expected one of predictions,"),
        ([*FOLDERS, *TASKS, "--items", "scores.csv"], "scores.csv, which --out writes as well"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written_over(evaluated, arguments, message):
    assert_refused(CliRunner().invoke(app, ["collect", *arguments]), evaluated, message)


def test_a_metric_of_unknown_direction_is_refused(evaluated):
    for run in RUNS:
        write_table(evaluated / "eval" / run / "loss.csv", [{"loss": 1.5}])
    told = "--task", "ocr: format=csv from=loss.csv metric=loss"
    done = CliRunner().invoke(app, ["collect", *FOLDERS, *TASKS[:2], *told])
    assert_refused(done, evaluated, "task 'ocr': metric 'loss': no one has said whether higher is better")
    done = CliRunner().invoke(app, ["collect", *FOLDERS, *TASKS[:2], told[0], f"{told[1]} better=reciprocal"])
    assert done.exit_code == 0
    assert (evaluated / "scores.csv").read_text().splitlines()[-1] == "transform,,reciprocal"


def test_items_of_an_older_table_are_not_left_beside_a_table_without_any(evaluated):
    alone = ["--task", TASKS[1] + " items=no", "--task", TASKS[1].replace("vqa:", "ocr:") + " items=no"]
    done = CliRunner().invoke(app, ["collect", *FOLDERS, *alone])
    assert_refused(done, evaluated, "scores.items.json: no task has items, and these are of another table")


def test_a_failing_write_leaves_all_files_as_they_were(evaluated, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "items.json")

    monkeypatch.setattr("cotbal.estimate.items_json.write_text_atomically", full)
    done = CliRunner().invoke(app, ["collect", *FOLDERS, *TASKS])
    assert_refused(done, evaluated, "items.json: no space left on device")


def test_an_excel_file_without_its_package_names_the_extra(evaluated, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (evaluated / "eval" / "mini" / "a.xlsx").write_bytes(b"")
    told = ["--task", "ocr: format=csv from=a.xlsx metric=m better=higher"]
    done = CliRunner().invoke(app, ["collect", *FOLDERS, *TASKS[:2], *told])
    assert_refused(done, evaluated, 'openpyxl is not installed; pip install "path/to/cotbal[collect]"')
