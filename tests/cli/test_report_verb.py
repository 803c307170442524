import json

import pytest
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.report import paper_tables
from tests.cli.commands import run_cotbal
from tests.report.results_example import make_results


def invoke(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_17_rows_of_the_paper_are_printed(tmp_path):
    done = run_cotbal("report", "--paper-tables", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "17 of 17 rows agree to two decimals." in done.stdout
    assert "CoTBal (lambda_D)" in done.stdout
    assert "10.39" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_rows_as_json():
    rows = json.loads(invoke("--paper-tables", "--json").stdout)
    assert len(rows) == 17
    assert rows[5]["method"] == "CoTBal"
    assert rows[5]["delta_i"] == pytest.approx(9.4484, abs=1e-4)
    assert all(row["agrees"] for row in rows)


def test_a_row_that_differs_gives_exit_code_1(monkeypatch):
    monkeypatch.setattr(paper_tables, "delta_i", lambda improvements: 7.3)
    shown = invoke("--paper-tables")
    assert shown.exit_code == 1
    assert "2 of 17 rows agree" in shown.stdout


def test_the_page_and_figures_of_a_result_are_written(tmp_path):
    results = tmp_path / "results.json"
    results.write_text(json.dumps(make_results(3)))
    shown = invoke(results, "--out", tmp_path / "new", "--json")
    assert shown.exit_code == 0, shown.output
    written = json.loads(shown.stdout)
    assert written["page"] == str(tmp_path / "new" / "report.html")
    assert "<html" in (tmp_path / "new" / "report.html").read_text()
    assert {"contribution.png", "radar.svg"} <= set(written["figures"])
    assert all((tmp_path / "new" / "figures" / name).stat().st_size for name in written["figures"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "results.json: expected JSON"),
        ("[]", "results.json: expected the results of `cotbal demo`, got a list"),
        ('{"schema_version": 2}', "expected schema_version 1, got 2"),
        ('{"schema_version": 1}', "results.json: expected the results of `cotbal demo`, got none for"),
    ],
)
def test_bad_results_are_one_line_and_write_nothing(tmp_path, text, message):
    results = tmp_path / "results.json"
    results.write_text(text)
    shown = invoke(results)
    assert shown.exit_code == 2
    assert shown.stderr.count("\n") == 1
    assert message in shown.stderr
    assert list(tmp_path.iterdir()) == [results]


@pytest.mark.parametrize("arguments", [[], ["results.json", "--paper-tables"]])
def test_it_wants_results_or_the_paper(arguments):
    shown = invoke(*arguments)
    assert shown.exit_code == 2
    assert "expected either RESULTS.json or --paper-tables" in shown.stderr
