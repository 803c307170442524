import json

import pytest
import torch
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.estimate import Scores, contribution, difficulty, estimate_weights
from cotbal.estimate.items_json import write_items
from cotbal.estimate.uncertainty import uncertainty
from cotbal.report.findings import Settings, estimate_results
from cotbal.weights import TaskWeights
from tests.cli.commands import call, run_cotbal
from tests.estimate.coverage import World
from tests.report.estimate_example import make_scores

TABLE = """run,vqa,ocr,bbox
mini,0.40,0.30,0.10
vqa,0.60,0.32,0.12
ocr,0.44,0.70,0.11
bbox,0.41,0.33,0.50
"""
UNIDENTIFIED = TABLE.replace("ocr,0.44,0.70", "ocr,0.44,0.30")


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(TABLE)
    return path


def test_the_tables_are_printed_and_the_weights_written(scores, tmp_path):
    done = run_cotbal("weights", "scores.csv", "--fixed", "chat=1.5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    expected = estimate_weights(Scores.from_csv(scores), fixed={"chat": 1.5})
    assert TaskWeights.load(tmp_path / "weights.json") == expected
    for text in (
        "Contribution C",
        "0.1125",
        "0.5714",
        f"{expected['bbox']:.4f}",
        "1.5000",
        "all2one",
        "weights.json",
    ):
        assert text in done.stdout


def test_a_fixed_task_is_without_the_spaces_around_it(scores, tmp_path):
    out = ("--out", tmp_path / "w.json")
    assert call("weights", scores, "--fixed", " chat = 1.5", *out).exit_code == 0
    assert TaskWeights.load(tmp_path / "w.json").fixed == {"chat": 1.5}
    assert "'chat' stands twice" in call("weights", scores, "--fixed", "chat = 1", "--fixed", "chat=2").stderr


def test_the_json_holds_every_signal_and_rule(scores, tmp_path, monkeypatch):
    options = ["--rule", "difficulty", "--temperature", "0.25", "--alpha", "0.9", "--out", "new/w.json"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["weights", "scores.csv", "--json", *options])
    assert done.exit_code == 0
    summary, table = json.loads(done.stdout), Scores.from_csv(scores)
    assert summary["contribution"] == contribution(table).tolist()
    assert summary["difficulty"] == difficulty(table).tolist()
    for rule, weights in summary["weights"].items():
        assert weights == dict(estimate_weights(table, rule=rule, temperature=0.25, alpha=0.9))
    assert len(summary["weights"]) == 6
    written = TaskWeights.load(tmp_path / "new" / "w.json")
    assert (written.rule, written.temperature, dict(written)) == (
        "difficulty",
        0.25,
        summary["weights"]["difficulty"],
    )


def test_a_column_that_is_not_identified_can_be_dropped(tmp_path, monkeypatch):
    (tmp_path / "scores.csv").write_text(UNIDENTIFIED)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["weights", "scores.csv", "--on-unidentified", "drop"])
    assert done.exit_code == 0
    assert "Not identified: ocr." in done.stdout
    assert TaskWeights.load(tmp_path / "weights.json").provenance["unidentified"] == ["ocr"]


def test_a_rule_that_needs_no_contribution_does_without(tmp_path, monkeypatch):
    (tmp_path / "scores.csv").write_text(UNIDENTIFIED)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["weights", "scores.csv", "--rule", "difficulty"])
    assert done.exit_code == 0
    assert "No weights by cotbal, contribution, one2all, all2one: scores: V(ocr + mini)" in done.stdout


def test_the_precise_difficulty_is_used(tmp_path, monkeypatch):
    (tmp_path / "scores.csv").write_text(TABLE + "single_mini,0.1,0.2,0.3\nsingle_full,0.2,0.8,0.4\n")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["weights", "scores.csv", "--precise", "--json"])
    assert json.loads(done.stdout)["difficulty"] == pytest.approx([0.5, 0.75, 0.25])


def assert_refused(done, folder, message):
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert (folder / "weights.json").read_text() == "old"
    assert {path.name for path in folder.iterdir()} == {"scores.csv", "weights.json"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE.replace("0.44", "nan"), "scores.csv: run 'ocr', task 'vqa': expected a finite score, got nan"),
        (
            TABLE.replace("0.44", ""),
            "scores.csv: row 'ocr', task 'vqa': expected a number, got an empty cell",
        ),
        (TABLE.replace(",0.11", ""), "scores.csv: row 'ocr': expected 3 cells, one per task, got 2"),
        (TABLE.replace("vqa,0.60,0.32,0.12\n", ""), "scores.csv: missing rows: vqa"),
        (UNIDENTIFIED, "V(ocr + mini) - V(mini) of task 'ocr' is 0, expected > 0"),
    ],
    ids=["nan", "empty cell", "missing cell", "missing task", "zero denominator"],
)
def test_bad_scores_are_one_line_and_nothing_is_written_over(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores.csv").write_text(text)
    (tmp_path / "weights.json").write_text("old")
    assert_refused(call("weights", "scores.csv"), tmp_path, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fixed", "vqa=1"], "fixed: vqa is also an estimated task"),
        (["--fixed", "chat"], "--fixed: expected TASK=WEIGHT with a number, got 'chat'"),
        (["--fixed", "chat=-1"], "fixed['chat']: expected a finite weight >= 0"),
        (["--fixed", "chat=1", "--fixed", "chat=2"], "task 'chat' stands twice"),
        (["--rule", "best"], "rule: expected one of"),
        (["--temperature", "0"], "temperature: expected a finite number > 0"),
        (["--alpha", "2"], "alpha: expected a number in 0..1"),
        (["--precise"], "the precise difficulty needs the single-task runs"),
        (["--on-unidentified", "ignore"], "on_unidentified: expected 'raise' or 'drop'"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written_over(
    scores, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.json").write_text("old")
    assert_refused(call("weights", "scores.csv", *options), tmp_path, message)


def test_a_folder_that_cannot_be_made_is_one_line(scores, tmp_path):
    (tmp_path / "file").write_text("old")
    shown = CliRunner().invoke(
        app, ["weights", str(scores), "--out", str(tmp_path / "file" / "weights.json")]
    )
    assert shown.exit_code == 2
    assert shown.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "old"


def test_a_missing_file_is_named_without_an_error_number(tmp_path):
    done = run_cotbal("weights", "absent.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "cotbal: absent.csv: no such file or directory\n"


def test_items_give_intervals_and_say_what_is_noise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = World.random(3, 8.0, torch.Generator().manual_seed(0)).table(torch.Generator().manual_seed(1))
    scores.to_csv("scores.csv")
    write_items("items.json", scores.items)
    done = CliRunner().invoke(app, ["weights", "scores.csv", "--items", "items.json"])
    assert done.exit_code == 0
    found = uncertainty(scores)
    low, high = (ends[0].item() for ends in (found.rules["cotbal"].low, found.rules["cotbal"].high))
    for text in (
        "Fieller",
        "bootstrap over the items",
        "one seed tells nothing",
        f"{low:.2f} .. {high:.2f}",
        "P(weight of",
    ):
        assert text in done.stdout
    assert TaskWeights.load("weights.json").provenance["uncertainty"] == found.to_json()


def test_a_column_inside_its_noise_is_named_instead_of_an_interval(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = World.random(3, 1.7, torch.Generator().manual_seed(0)).table(torch.Generator().manual_seed(1))
    scores.to_csv("scores.csv")
    write_items("items.json", scores.items)
    options = ["--items", "items.json", "--on-unidentified", "drop"]
    done = CliRunner().invoke(app, ["weights", "scores.csv", "--rule", "difficulty", *options])
    assert done.exit_code == 0
    assert "No interval of a weight that needs C" in done.stdout
    assert "unbounded" in done.stdout


@pytest.mark.parametrize(
    ("text", "tables", "message"),
    [
        ('{"schema_version": 1, "items": {"mini": {"other": [1.0]}}}', 1, "other"),
        ('{"schema_version": 1, "items": {"mini": {"vqa": [0.1, ', 1, "items.json"),
        ('{"schema_version": 1, "items": {}}', 2, "--items: expected one for each of 2 score tables, got 1"),
    ],
)
def test_items_that_are_not_of_the_table_are_refused(scores, tmp_path, text, tables, message):
    (tmp_path / "items.json").write_text(text)
    done = call("weights", *[scores] * tables, "--items", tmp_path / "items.json")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_column_that_may_hold_shares_and_percentages_is_told(tmp_path):
    # The percentages of one task and the shares of the others are both right.
    percent = TABLE.replace("0.30,0", "30,0").replace("0.32,", "32,").replace("0.70,", "70,")
    percent = percent.replace("0.33,", "33,")
    (tmp_path / "scores.csv").write_text(percent.replace("run,", "Run,"))
    done = CliRunner().invoke(app, ["weights", str(tmp_path / "scores.csv"), "--out", str(tmp_path / "w")])
    assert (done.exit_code, done.stderr) == (0, "")
    (tmp_path / "scores.csv").write_text(percent.replace("32,", "0.32,"))
    done = CliRunner().invoke(app, ["weights", str(tmp_path / "scores.csv"), "--out", str(tmp_path / "w")])
    assert done.exit_code == 0
    told = "task 'ocr': 0.32 in row 'vqa' and 70 in row 'ocr'; if one is a share and the other a percentage"
    assert done.stderr.count(told) == done.stderr.count("task") == 1


def test_what_a_table_without_probes_cannot_take_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    single = "single_mini,0.1,0.2\nsingle_full,0.2,0.8\n"
    (tmp_path / "scores.csv").write_text(f"run,vqa,ocr\nmini,0.4,0.3\nequal,66.0,0.5\n{single}")
    done = CliRunner().invoke(app, ["weights", "scores.csv"])
    assert (done.exit_code, done.stderr.count("0.4 in row 'mini' and 66 in row 'equal'; if one")) == (0, 1)
    (tmp_path / "weights.json").write_text("old")
    done = CliRunner().invoke(app, ["weights", "scores.csv", "--precise"])
    message = "--precise: the difficulty of a table of mode no-probes is that of its rows mini and equal"
    assert (done.exit_code, message in done.stderr.splitlines()[-1]) == (2, True)
    assert (tmp_path / "weights.json").read_text() == "old"


def test_intervals_without_probes_are_said_to_be_of_the_items(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores.csv").write_text("run,vqa,ocr\nmini,0.5,0.25\nequal,0.75,0.5\n")
    rows = {
        "mini": {"vqa": [1, 1, 0, 0], "ocr": [1, 0, 0, 0]},
        "equal": {"vqa": [1, 1, 1, 0], "ocr": [1, 0, 1, 0]},
    }
    many = {run: {task: items * 20 for task, items in of_run.items()} for run, of_run in rows.items()}
    write_items(tmp_path / "items.json", many)
    told = "The intervals are over the validation items: of another training they tell nothing."
    for options, times in ((["--items", "items.json"], 1), ([], 0)):
        done = CliRunner().invoke(app, ["weights", "scores.csv", *options])
        assert (done.exit_code, done.stdout.count(told)) == (0, times), done.output
    seeds = []
    for seed, right in enumerate((38, 40, 42)):
        many["mini"]["vqa"] = [1] * right + [0] * (80 - right)
        (tmp_path / f"{seed}.csv").write_text(f"run,vqa,ocr\nmini,{right / 80},0.25\nequal,0.75,0.5\n")
        write_items(tmp_path / f"{seed}.json", many)
        seeds += [f"{seed}.csv", "--items", f"{seed}.json"]
    done = CliRunner().invoke(app, ["weights", *seeds])
    assert (done.exit_code, told in done.stdout) == (0, False), done.output
    assert "The model of equal weights is one training under all seeds" in done.stdout


def test_the_spread_over_seeds_without_probes_is_printed_and_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The last seed alone allows no weights.
    for seed, mini in enumerate((0.2, 0.25, 0.0)):
        (tmp_path / f"{seed}.csv").write_text(f"run,a,b\nmini,{mini},0.3\nequal,0.5,0.6\n")
    alone = []
    for seed in "01":
        assert call("weights", f"{seed}.csv", "--fixed", "c=1").exit_code == 0
        alone.append(json.loads((tmp_path / "weights.json").read_text()))
        assert "seed_sd" not in alone[-1]["provenance"]
    off = abs(alone[0]["weights"]["a"] - alone[1]["weights"]["a"]) / 2**0.5
    arguments = ["weights", "0.csv", "1.csv", "2.csv", "--fixed", "c=1"]
    kept = json.loads(call(*arguments, "--json").stdout)["seed_sd"]
    assert kept == pytest.approx({"a": off, "b": off, "c": 0.0})
    assert json.loads((tmp_path / "weights.json").read_text())["provenance"]["seed_sd"] == kept
    shown = call(*arguments).stdout
    assert "sd over seeds" in shown
    assert f"{off:.4f}" in shown


def test_intervals_of_pulled_weights_are_those_of_the_scores_and_are_said_to_be(tmp_path):
    right = {"mini": (12, 18), "a": (48, 24), "b": (15, 45)}
    items = {
        run: {task: [1.0] * count + [0.0] * (60 - count) for task, count in zip("ab", counts, strict=True)}
        for run, counts in right.items()
    }
    scores = Scores(["a", "b"], [0.2, 0.3], [[0.8, 0.4], [0.25, 0.75]], items=items)
    files = [scores.to_csv(tmp_path / "scores.csv"), "--items", write_items(tmp_path / "i.json", items)]
    told = "The intervals are of the values before they are pulled"
    plain = estimate_results([scores], Settings(), source="seed 0")["intervals"]
    for options, times in (([], 0), (["--shrink"], 1)):
        arguments = ["weights", *files, "--out", tmp_path / "w", *options]
        done = CliRunner().invoke(app, [*map(str, arguments)])
        assert (done.exit_code, done.stdout.count(told)) == (0, times)
        found = estimate_results([scores], Settings(shrink=bool(options)), source="seed 0")
        assert " ".join(found["statements"]).count(told) == times
        assert found["intervals"] == plain
        kept = json.loads((tmp_path / "w").read_text(encoding="utf-8"))["provenance"]
        assert (kept["shrink"], kept["uncertainty"]) == (bool(options), plain)


def test_items_of_some_tasks_give_weights_without_intervals(tmp_path):
    scores = make_scores(2)
    table = scores.to_csv(tmp_path / "scores.csv")
    part = {run: {"vqa": of_run["vqa"]} for run, of_run in scores.items.items()}
    items = write_items(tmp_path / "items.json", part)
    shown = CliRunner().invoke(
        app, ["weights", str(table), "--items", str(items), "--out", str(tmp_path / "w")]
    )
    assert shown.exit_code == 0, shown.output
    assert "There are no intervals, as there are no per-item scores of <b>x</b> in every run." in shown.stdout


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ({"vqa": [1, 0]}, "there are no per-item scores of ocr in every run"),
        ({"vqa": [1, 0], "ocr": [0.5]}, "all items of ocr are one, or belong together"),
    ],
)
def test_without_probes_too_items_that_allow_no_intervals_take_no_weights(items, reason, tmp_path):
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, score in zip(tables, (0.75, 1), strict=True):
        path.write_text(f"run,vqa,ocr\nmini,0.5,0.5\nequal,0.5,{score}\n")
    file = write_items(tmp_path / "items.json", {"mini": items, "equal": items})
    for given in (tables[:1], tables):
        words = [str(word) for path in given for word in (path, "--items", file)]
        shown = CliRunner().invoke(app, ["weights", *words, "--out", str(tmp_path / "w")])
        assert shown.exit_code == 0, shown.output
        assert f"There are no intervals, as {reason}." in shown.stdout


@pytest.mark.parametrize("rows", [TABLE, "run,vqa,ocr\nmini,0.4,0.3\nequal,0.6,0.7\n"])
def test_a_table_given_as_two_seeds_is_refused(rows, tmp_path, monkeypatch):
    """It would tell that there is no noise between trainings."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).write_text(rows if name != "b.csv" else rows.replace("0.7", "0.75"))
    done = call("weights", "a.csv", "b.csv", "c.csv")
    assert done.exit_code == 2
    assert done.stderr.startswith(
        "cotbal: SCORES: expected a table of its own for every seed, got the same scores in a.csv and c.csv;"
    )
    assert call("weights", "a.csv", "b.csv").exit_code == 0
