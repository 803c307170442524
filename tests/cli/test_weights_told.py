"""What `cotbal weights` tells of a table beside its numbers."""

import pytest
from typer.testing import CliRunner

from cotbal.cli.main import app


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
