import fnmatch
import json

import pytest
from typer.testing import CliRunner

from cotbal.cli import report as verb
from cotbal.cli.main import app
from cotbal.estimate.items_json import write_items
from cotbal.project import session
from cotbal.project.config import load_project
from cotbal.project.data import prepare
from cotbal.project.recipe import plan_of
from cotbal.project.work import store_of
from cotbal.report import paper_tables
from tests.cli.commands import call, run_cotbal
from tests.project import toy
from tests.project.instant import instantly
from tests.project.test_session import score
from tests.report.estimate_example import make_scores
from tests.report.reading import Page
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
        ('{"schema_version": 1}', "got none for 'seeds'; of weights.json give the CSV or the YAML that"),
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


def test_a_score_table_gives_page_card_json_and_figures(tmp_path):
    scores = make_scores(2)
    scores.to_csv(tmp_path / "scores.csv")
    items = write_items(tmp_path / "items.json", scores.items)
    shown = invoke(
        tmp_path / "scores.csv", "--items", items, "--fixed", "chat=1.5", "--temperature", "1", "--json"
    )
    assert shown.exit_code == 0, shown.output
    written = json.loads(shown.stdout)
    assert all((tmp_path / name).stat().st_size for name in ("report.html", "report.json", "report.md"))
    assert {"contribution.png", "contribution.svg", "radar.png", "weights.svg"} <= set(written["figures"])
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["temperature"], content["fixed"], content["runs"]) == (1.0, {"chat": 1.5}, None)
    assert "T = 1.0" in (tmp_path / "report.md").read_text()
    assert "| chat (fixed) | 1.500 |" in (tmp_path / "report.md").read_text()


def test_a_table_whose_name_is_no_utf_8_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("cotbal.report.figures.write_figures", lambda *given: {})
    table = make_scores(2).to_csv(tmp_path / "scores\udcff.csv")
    shown = invoke(table)
    assert shown.exit_code == 0, shown.output
    assert r"scores in scores\udcff.csv" in (tmp_path / "report.html").read_text()


def test_a_project_is_reported_before_and_after_its_runs(tmp_path):
    file = toy.write(tmp_path)
    (tmp_path / "script").write_text(json.dumps({"b on c": {"fails": 1}}))
    shown = invoke(file)
    assert shown.exit_code == 0, shown.output
    assert "There are no weights yet" in shown.stdout
    folder = tmp_path / "out" / "report"
    assert "0 of 16 runs are finished" in (folder / "report.md").read_text()
    assert not (folder / "figures").exists()
    check_again(folder)
    assert CliRunner().invoke(app, ["run", str(file)]).exit_code in (0, 1)
    assert CliRunner().invoke(app, ["run", str(file)]).exit_code == 0
    assert invoke(file).exit_code == 0
    content = json.loads((folder / "report.json").read_text())
    weights = json.loads((tmp_path / "out" / "weights.json").read_text())["weights"]
    assert content["by_seed"]["0"]["weights"]["cotbal"] == weights
    assert content["metrics"]["b"] == "EM"
    runs = content["runs"]
    assert (runs["totals"]["finished"], runs["totals"]["device"]) == (16, "slot")
    seconds = sum(run["seconds"] + run["evaluation_seconds"] for run in runs["trainings"])
    assert runs["totals"]["device_hours"] == pytest.approx(seconds / 3600)
    first = runs["trainings"][0]
    assert (first["name"], first["evaluated"]) == ("mini", 3)
    assert "16 of 16 runs are finished" in (folder / "report.html").read_text()
    check_again(folder)


@pytest.mark.parametrize(
    ("changes", "options"), [({"step_matched": True}, []), ({}, ["--step-matched"]), ({}, [])]
)
def test_steps_that_were_matched_by_the_file_or_by_the_option_are_in_the_results(
    tmp_path, monkeypatch, changes, options
):
    """From them the page says whether a part of C can be the effect of more steps."""
    command = toy.content(tmp_path)["train"]["command"]
    path = toy.write(tmp_path, train={"command": f"{command} {{steps}}", "batch_size": 4}, **changes)
    project = load_project(path, step_matched=bool(options))
    instantly(lambda name, task: 0.9 if task in name else 0.4)(
        project, plan_of(project, prepare(project)), store_of(project), None
    )
    written = []
    monkeypatch.setattr(verb, "_write", lambda results, *_: written.append(results))
    shown = invoke(path, *options)
    assert shown.exit_code == 0, shown.output
    assert [results["step_matched"] for results in written] == [bool(changes or options)]


def check_again(folder):
    """The page is made again from report.json, runs and final models included."""
    page = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    shown = invoke(folder / "report.json")
    assert shown.exit_code == 0, shown.output
    assert (folder / "report.html").read_text() == page


def test_weights_on_disk_that_are_not_those_of_the_page_are_told(tmp_path, monkeypatch):
    """The page is of the file as it is now, weights.json of what `cotbal run` was told."""
    monkeypatch.setattr("cotbal.cli.report._write", lambda *given: None)
    monkeypatch.setattr(session, "work", instantly(score))
    path = toy.write(tmp_path)
    told = f"{tmp_path / 'out' / 'weights.json'} holds other weights than this page"
    for changes in ({}, {"temperature": 1.0}, {"rule": "equal"}):
        toy.write(tmp_path, **changes)
        assert (told in invoke(path).stderr) == bool(changes)
        assert call("run", path).exit_code == 0
        assert told not in invoke(path).stderr
    (tmp_path / "c.json").write_text("[{}, {}]")
    assert told in invoke(path).stderr
    (tmp_path / "out" / "weights.json").write_text("")
    assert told in invoke(path).stderr


@pytest.mark.parametrize(
    ("changed", "reason", "has_weights"),
    [
        ("seed 1/evaluate * on b", "expected the same under every seed, got others; every model", False),
        (
            "seed 1/evaluate probe c on b",
            "No weights for seed 1: clusters: task 'b': expected those of",
            True,
        ),
    ],
)
def test_a_seed_of_other_items_leaves_the_page_of_all_else(
    tmp_path, monkeypatch, changed, reason, has_weights
):
    monkeypatch.setattr(session, "work", instantly(score))
    path = toy.write(tmp_path, seeds=[0, 1])
    assert call("run", path).exit_code == 0
    for file in (tmp_path / "out" / "runs").glob("*/*.json"):
        content = json.loads(file.read_text())
        if fnmatch.fnmatch(content.get("name", ""), changed):
            content["result"]["clusters"] = [5, 6]
            file.write_text(json.dumps(content))
    monkeypatch.setattr("cotbal.report.figures.write_figures", lambda *given: {})
    shown = invoke(path)
    assert shown.exit_code == 0, shown.output
    assert reason in shown.stdout
    folder = tmp_path / "out" / "report"
    assert (json.loads((folder / "report.json").read_text()).get("by_seed") is not None) == has_weights
    for text in (Page((folder / "report.html").read_text()).text, (folder / "report.md").read_text()):
        assert reason in text
        assert "32 of 32 runs are finished" in text
    check_again(folder)


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("scores.csv", "run,a,b\nmini,1,2\na,2,3\n", [], "scores.csv: "),
        ("scores.csv", "run,a,b\nmini,1,2\na,2,3\nb,1,\n", [], "scores.csv: "),
        ("scores.csv", "run,a,b\nmini,1,2\na,2,3\nb,1,4\n", ["--rule", "best"], "rule: expected one of"),
        ("scores.csv", "run,a,b\nmini,1,2\na,2,3\nb,1,4\n", ["--items", "none.json"], "none.json"),
        ("scores.csv", "run,a,b\nmini,1,2\na,2,3\nb,1,4\n", ["--precise"], "precise difficulty needs"),
        ("scores.csv", "run,a,b\nmini,1,2\na,2,3\nb,1,4\n", ["--shrink"], "--shrink: expected --items"),
        ("estimate.yaml", "task: {}\n", [], "estimate.yaml"),
        ("estimate.yaml", "tasks: {}\n", ["--alpha", "1"], "--alpha: only with a CSV"),
        ("scores.txt", "", [], "FILE: expected .yaml, .csv or .json"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, name, text, options, message):
    (tmp_path / name).write_text(text)
    shown = invoke(tmp_path / name, *options)
    assert shown.exit_code == 2
    assert shown.stderr.count("\n") == 1
    assert message in shown.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("arguments", [[], ["results.json", "--paper-tables"]])
def test_it_wants_results_or_the_paper(arguments):
    shown = invoke(*arguments)
    assert shown.exit_code == 2
    assert "expected either FILE or --paper-tables" in shown.stderr
