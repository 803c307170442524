"""What `cotbal weights` tells of a table beside its numbers."""

import pytest
import torch
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.estimate import Scores
from cotbal.estimate.few_seeds import few_seeds
from cotbal.estimate.items_json import write_items
from cotbal.report.findings import Settings, estimate_results
from cotbal.report.noise import statements
from tests.cli.commands import call
from tests.estimate.coverage import World


@pytest.mark.parametrize(
    ("column", "transform", "told"),
    [
        (("0.60", "0.55", "0.21"), "complement: 100", True),
        (("0.60", "0.55", "0.21"), "complement: 12", True),
        (("0.60", "0.55", "0.21"), "complement: 11.9", False),
        (("0.60", "0.55", "0.21"), "reciprocal", False),
        (("60", "55", "21"), "complement: 100", False),
    ],
)
@pytest.mark.parametrize(
    "rows", ["mini,0.62,{0}\na,0.88,{1}\nwer,0.64,{2}\n", "mini,0.62,{0}\nequal,0.88,{2}\n"]
)
def test_a_bound_far_above_every_score_is_told(tmp_path, rows, column, transform, told):
    """Shares under the bound of percentages: all difficulties come out near 0."""
    (tmp_path / "s.csv").write_text(f"run,a,wer\n{rows.format(*column)}transform,,{transform}\n")
    shown = CliRunner().invoke(app, ["weights", str(tmp_path / "s.csv"), "--out", str(tmp_path / "w")])
    assert shown.exit_code == 0, shown.output
    sentence = f"s.csv: task 'wer': the bound of {transform} is far above its largest score, 0.6; if it is in"
    assert shown.stderr.count(sentence) == shown.stderr.count("task") == told


@pytest.mark.parametrize(
    ("rows", "options", "times"),
    [
        ("", (), 0),
        ("equal,0.8,0.8\n", (), 1),
        ("equal,0.8,0.8\nsingle_mini,0.3,0.3\nsingle_full,0.6,0.7\n", ("--precise",), 0),
    ],
)
def test_that_the_difficulty_is_from_the_row_equal_is_told(tmp_path, rows, options, times):
    (tmp_path / "s.csv").write_text(f"run,vqa,ocr\nmini,0.4,0.3\nvqa,0.6,0.4\nocr,0.5,0.7\n{rows}")
    words = [str(tmp_path / "s.csv"), *options, "--out", str(tmp_path / "w")]
    shown = CliRunner().invoke(app, ["weights", *words])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("D is from the row equal, the model of equal weights") == times


def test_two_seeds_are_said_to_show_little(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = World.random(3, 8.0, torch.Generator().manual_seed(0))
    tables = [world.table(torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    words = ["weights"]
    for seed, table in enumerate(tables):
        table.to_csv(f"{seed}.csv")
        write_items(f"{seed}.json", table.items)
        words += [f"{seed}.csv", "--items", f"{seed}.json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (line,) = few_seeds(2)
    assert line in done.stdout
    assert line in statements(estimate_results(tables, Settings(), source="two seeds"))


def test_scores_of_items_that_are_all_alike_are_named_as_their_intervals_have_no_width(tmp_path, monkeypatch):
    """They were 0.94 .. 0.94 from three items, without a word."""
    monkeypatch.chdir(tmp_path)
    rows = {"mini": (0.2, 0.1), "a": (1.0, 0.3), "b": (0.3, 1.0)}
    items = {run: {"a": [a, a, a], "b": [b - 0.1, b, b + 0.1]} for run, (a, b) in rows.items()}
    scores = Scores(["a", "b"], rows["mini"], [rows["a"], rows["b"]], items=items)
    scores.to_csv("s.csv")
    write_items("s.json", items)
    line = "Every item scored alike for a in row mini, a in row a, a in row b: such items show no noise, and "
    assert line in call("weights", "s.csv", "--items", "s.json").stdout
    assert line in " ".join(statements(estimate_results([scores], Settings(), source="three items")))
    # Without probes.
    (tmp_path / "two.csv").write_text("run,a,b\nmini,0.2,0.1\nequal,1.0,1.0\n")
    write_items("two.json", {"mini": items["mini"], "equal": {"a": [1, 1, 1], "b": [0.9, 1, 1.1]}})
    line = "Every item scored alike for a in row mini, a in row equal: such items show no noise, and "
    assert line in call("weights", "two.csv", "--items", "two.json").stdout


@pytest.mark.parametrize(("sets", "told"), [(None, "of b (4)"), ([0] * 3 + [1] * 9, "of a (3), b (4)")])
def test_few_items_or_pictures_or_of_one_set_are_said_to_show_little(sets, told, tmp_path, monkeypatch):
    """Of 3 a 95 % interval of the difficulty holds the truth in three of four cases, of 2 in half of them."""
    monkeypatch.chdir(tmp_path)
    rows = {"mini": (0.2, 0.1), "a": (0.9, 0.3), "b": (0.3, 0.9)}
    # Each three of them have the same mean.
    items = {
        run: {"a": [a - 0.1, a, a + 0.1] * 4, "b": [b - 0.1, b, b + 0.1] * 4} for run, (a, b) in rows.items()
    }
    options = {"clusters": {"b": [0, 1, 2, 3] * 3}, "strata": None if sets is None else {"a": sets}}
    scores = Scores(["a", "b"], rows["mini"], [rows["a"], rows["b"]], items=items, **options)
    scores.to_csv("s.csv")
    write_items("s.json", items, **options)
    line = f"Fewer than 10 items, or clusters of them, {told}: so few show little of their noise. "
    assert line in call("weights", "s.csv", "--items", "s.json").stdout
    assert line in " ".join(statements(estimate_results([scores], Settings(), source="few items")))
