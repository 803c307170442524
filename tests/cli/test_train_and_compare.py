"""`cotbal train` and `cotbal compare` on the toy: every method trained once, the tables, the figure."""

import json
import sys
from pathlib import Path

import pytest

from cotbal.estimate import Scores, estimate_weights
from cotbal.weights import TaskWeights
from tests.cli.commands import call
from tests.project import toy
from tests.project.toy import content, starts, write
from tests.report.reading import Page

MIXTURE = {"a": 64, "b": 96, "c": 40, "chat": 10}


def with_tests(folder, **changes):
    """The toy with test files, b in two sets."""
    tasks = content(folder)["tasks"]
    tasks["a"]["test"] = "test.jsonl"
    tasks["b"]["test"] = {"near": "test.jsonl", "far": "far.jsonl"}
    python = f"{sys.executable} -S {Path(toy.__file__).resolve()}"
    evaluate = {"command": f"{python} score {{run}} {{model}} {{task}} {{scores}} {{data}}"}
    # One worker: starting another one takes longer than what it would do.
    path = write(folder, tasks=tasks, evaluate=evaluate, resources={"retries": 0}, **changes)
    (folder / "test.jsonl").write_text("{}\n" * 30)
    (folder / "far.jsonl").write_text("{}\n" * 50)
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The estimate, then table 2: the YAML, what failed before the estimate, the commands and the output."""
    folder = tmp_path_factory.mktemp("finals")
    path = with_tests(folder)
    early = call("train", path)
    assert not (folder / "out" / "finals.json").exists()
    assert call("run", path).exit_code == 0
    before = starts(folder)
    result = call("compare", path, "--suite", "table2")
    assert result.exit_code == 0, result.output
    return path, early, starts(folder) - before, result.stdout


@pytest.fixture(scope="module")
def table3(project):
    """Table 3 after them: the folder, the commands and the output."""
    folder = project[0].parent
    before = starts(folder)
    result = call("compare", project[0], "--suite", "table3")
    assert result.exit_code == 0, result.output
    return folder, starts(folder) - before, result.stdout


def trainings(commands):
    return {name for name in commands if " on " not in name}


def models(folder, method, seed=0):
    by_seed = json.loads((folder / "out" / "finals.json").read_text())["methods"][method]
    folders = by_seed[str(seed)]["models"].values()
    return [json.loads(Path(of_run, "model.json").read_text()) for of_run in folders]


def test_what_needs_the_estimate_waits_for_it(project):
    _, early, *_ = project
    assert early.exit_code == 2
    assert "the estimate is not finished: 16 of 16 runs are missing (mini, evaluate mini on a" in early.output


def test_table_2_trains_every_method_once_and_scores_it_on_the_test_files(project):
    _, _, commands, _ = project
    mixtures = {f"final {name}" for name in ("EW", "TLA", "RLW", "DWA", "IGBv1", "CoTBal")}
    assert trainings(commands) == mixtures | {f"alone full {task}" for task in "abc"}
    assert set(commands.values()) <= {1, 2}
    # b has two test sets.
    assert {name for name, times in commands.items() if times == 2} == {
        *(f"{run} on b" for run in mixtures),
        "alone full b on b",
    }


def test_models_are_trained_on_all_data_under_the_weights_of_the_estimate(project):
    folder = project[0].parent
    for method, expected in {
        "EW": {"a": 1, "b": 1, "c": 1, "chat": 1.5},
        "CoTBal": TaskWeights.load(folder / "out" / "weights.json").weights,
    }.items():
        (model,) = models(folder, method)
        assert (model["counts"], model["weights"]) == (MIXTURE, pytest.approx(expected))
    assert [model["counts"] for model in models(folder, "STL")] == [{task: MIXTURE[task]} for task in "abc"]


def test_a_dynamic_method_gets_its_rule_as_a_file_and_a_static_one_its_origin(project):
    folder = project[0].parent
    files = [json.loads(file.read_text()) for file in folder.glob("out/runs/*/weights.json")]
    rules = {content["rule"]: content for content in files if "weights" not in content}
    assert set(rules) == {"TLA", "RLW", "DWA", "IGBv1"}
    assert rules["DWA"]["fixed"] == {"chat": 1.5}
    assert rules["DWA"]["tasks"] == ["a", "b", "c", "chat"]
    assert rules["RLW"]["options"] == {"seed": 0}
    origins = {(content["rule"], content["temperature"]) for content in files if "weights" in content}
    assert {("cotbal", 0.5), ("equal", None)} <= origins


def test_scores_are_those_of_the_test_files_and_of_the_validation_file_where_there_is_none(project):
    folder = project[0].parent
    scores = json.loads((folder / "out" / "finals.json").read_text())["methods"]["STL"]["0"]["scores"]
    assert scores == pytest.approx(
        {
            "a": 64**0.5 / 20 + 0.03,
            "b/near": 96**0.5 / 20 + 0.03,
            "b/far": 96**0.5 / 20 + 0.05,
            "c": 40**0.5 / 20 + 0.02,
        }
    )


def test_items_that_belong_together_are_known(project):
    finals = json.loads((project[0].parent / "out" / "finals.json").read_text())
    sizes = {"a": 30, "b/near": 30, "b/far": 50, "c": 20}
    assert finals["clusters"] == {name: [0, *range(size - 1)] for name, size in sizes.items()}


def test_the_table_is_written_and_told(project):
    path, _, _, shown = project
    folder = path.parent / "out" / "compare"
    assert "No test scores: c has no test file" in shown
    table = json.loads((folder / "table2.json").read_text())
    assert [row["name"] for row in table["methods"]] == ["STL", "EW", "TLA", "RLW", "DWA", "IGBv1", "CoTBal"]
    assert [column["name"] for column in table["columns"]] == ["a", "b/near", "b/far", "c"]
    assert all(row["delta_i_interval"] for row in table["methods"])
    for name in ("table2.html", "table2.md", "table2-improvement.svg", "table2-radar.png"):
        assert (folder / name).stat().st_size > 200


def test_nothing_is_done_twice_and_status_knows_the_final_models(project):
    path, *_ = project
    before = starts(path.parent)
    again = call("train", path, "--method", "table2", "--json")
    assert again.exit_code == 0, again.output
    assert again.stderr.startswith("all ")
    assert json.loads(again.stdout)["methods"]["EW"]["0"]["weights"]["a"] == 1
    shown = json.loads(call("status", path, "--json").stdout)["runs"]
    assert {"final DWA", "test final DWA on b, far"} <= {run["name"] for run in shown}
    assert {run["state"] for run in shown} == {"finished"}
    assert call("compare", path).exit_code == 0
    assert starts(path.parent) == before
    assert (path.parent / "out" / "compare" / "compare.html").exists()


def test_the_report_has_the_final_models(project):
    path, *_ = project
    assert call("report", path).exit_code == 0
    folder = path.parent / "out" / "report"
    page = Page((folder / "report.html").read_text())
    assert [row[0] for row in page.tables["scores"][1:]][:2] == ["STL", "EW"]
    assert "## Final models" in (folder / "report.md").read_text()
    assert json.loads((folder / "report.json").read_text())["finals"]["baseline"] == "STL"


@pytest.mark.full
def test_table_3_adds_only_what_the_estimate_and_table_2_do_not_have(table3):
    _, commands, shown = table3
    static = ("CoTBal T=2", "CoTBal T=1", "one2all", "all2one", "contribution", "difficulty")
    mixtures = {f"final {name}" for name in (*static, "CoTBal D=precise")}
    assert trainings(commands) == mixtures | {f"alone mini {task}" for task in "abc"}
    # The precise difficulty is from validation scores; that of c is its test score too.
    assert {f"alone full {task} on {task}" for task in "ab"} <= set(commands)
    assert "alone full c on c" not in commands
    assert "The same model: CoTBal T=0.5, CoTBal, CoTBal D=real." in shown


@pytest.mark.full
def test_the_rows_of_table_3_have_the_weights_of_their_rules(table3):
    folder, *_ = table3
    scores, fixed = Scores.from_csv(folder / "out" / "scores.csv"), {"chat": 1.5}
    for method, expected in {
        "CoTBal T=1": estimate_weights(scores, temperature=1.0, fixed=fixed),
        "CoTBal T=2": estimate_weights(scores, temperature=2.0, fixed=fixed),
        "one2all": estimate_weights(scores, rule="one2all", fixed=fixed),
        "difficulty": estimate_weights(scores, rule="difficulty", fixed=fixed),
    }.items():
        (model,) = models(folder, method)
        assert (model["counts"], model["weights"]) == (MIXTURE, pytest.approx(expected.weights))
    assert models(folder, "CoTBal T=0.5") == models(folder, "CoTBal") == models(folder, "CoTBal D=real")


@pytest.mark.full
def test_the_precise_difficulty_is_that_of_the_models_on_each_task_alone(table3):
    folder, *_ = table3
    (model,) = models(folder, "CoTBal D=precise")
    scores, minis = Scores.from_csv(folder / "out" / "scores.csv"), {"a": 8, "b": 12, "c": 5}
    single = [[counts[task] ** 0.5 / 20 + 0.02 for task in "abc"] for counts in (minis, MIXTURE)]
    whole = Scores(scores.tasks, scores.mini, scores.probes, single_mini=single[0], single_full=single[1])
    expected = estimate_weights(whole, precise=True, fixed={"chat": 1.5}).weights
    assert model["weights"] == pytest.approx(expected)


@pytest.mark.full
def test_the_scores_by_share_are_of_the_rungs_and_their_ends_those_of_the_estimate(project):
    path, *_ = project
    folder = path.parent
    before = starts(folder)
    listed = json.loads(call("compare", path, "--suite", "figure1b", "--dry-run", "--json").stdout)
    assert listed["totals"]["trainings"] == 6
    result = call("compare", path, "--suite", "figure1b")
    assert result.exit_code == 0, result.output
    new = starts(folder) - before
    assert trainings(new) == {f"{share} probe {task}" for share in ("quarter", "half") for task in "abc"}
    assert new["quarter probe a on a"] == 1
    assert new["quarter probe a on b"] == 0
    found = json.loads((folder / "out" / "compare" / "figure1b.json").read_text())
    assert found["shares"] == {"mini": 0.125, "1/4": 0.25, "1/2": 0.5, "full": 1.0}
    scores = Scores.from_csv(folder / "out" / "scores.csv")
    of_b = found["tasks"]["b"]
    assert [of_b["scores"][0], of_b["scores"][-1]] == pytest.approx(
        [scores.mini[1].item(), scores.probes[1, 1].item()]
    )
    assert of_b["scores"][1] == pytest.approx((24**0.5 + 0.2 * (8**0.5 + 5**0.5)) / 20 + 0.02)
    assert of_b["relative"][0] == pytest.approx(of_b["scores"][0] / of_b["scores"][-1])


@pytest.mark.full
def test_a_final_run_that_fails_leaves_the_others_and_is_tried_again(tmp_path):
    path = with_tests(tmp_path)
    assert call("run", path).exit_code == 0
    (tmp_path / "script").write_text(json.dumps({"final DWA": {"fails": 9}}))
    methods = ("--method", "EW", "--method", "DWA", "--method", "STL")
    result = call("train", path, *methods)
    assert result.exit_code == 1
    assert "5 runs are missing, 1 failed" in result.stderr
    shown = call("compare", path, "--no-run")
    assert "Not finished, and so left out: DWA." in shown.stdout
    (tmp_path / "script").unlink()
    assert call("train", path, *methods).exit_code == 0


def test_a_command_that_takes_no_weights_is_refused_for_what_needs_them(tmp_path):
    path = with_tests(tmp_path)
    whole = json.loads(path.read_text())
    whole["train"]["command"] = whole["train"]["command"].replace("{weights}", "weights.json")
    path.write_text(json.dumps(whole))
    result = call("train", path, "--method", "TLA")
    assert "train.command: method TLA needs {weights} in it" in result.output
    assert "keep the command of now as train.probe_command, and what is finished counts" in result.output
    assert "train.command has no {weights}, which `cotbal train` needs." in call("plan", path).stdout


@pytest.mark.parametrize("option", ["--baseline", "--method"])
def test_the_scores_by_share_take_no_option_of_methods(tmp_path, option):
    result = call("compare", with_tests(tmp_path), "--suite", "figure1b", option, "EW")
    assert result.exit_code == 2
    assert f"{option}: not with --suite figure1b" in result.output


def test_a_budget_holds_for_what_is_still_to_be_done(tmp_path):
    path = with_tests(tmp_path)
    shown = call("train", path, "--method", "EW", "--method", "STL", "--dry-run")
    assert "To do: 4 trainings on 410 samples" in shown.stdout
    result = call("train", path, "--method", "EW", "--method", "STL", "--budget", "400 samples")
    assert "budget: expected at most 400 samples" in result.output
    assert not starts(tmp_path)


def test_models_from_elsewhere_are_compared_by_their_files(tmp_path):
    csv = tmp_path / "ours.csv"
    csv.write_text("run,a,b\nSTL,0.5,0.4\nEW,0.6,0.4\nCoTBal,0.75,0.3\n")
    result = call("compare", csv, "--out", tmp_path / "page", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["methods"]
    assert [row["delta_i"] for row in rows] == pytest.approx([0, 10, 12.5])
    assert [row["delta_e"] for row in rows] == pytest.approx([0, 0, 12.5])
    other = tmp_path / "theirs" / "ours.csv"
    other.parent.mkdir()
    other.write_text("run,a,b\nEW,0.7,0.4\n")
    merged = call("compare", csv, other, "--out", tmp_path / "both", "--json")
    names = [row["name"] for row in json.loads(merged.stdout)["methods"]]
    assert names == ["STL", "EW (ours)", "CoTBal", "EW (theirs/ours)"]
    assert "expected different files" in call("compare", csv, csv).output
    both = call("compare", csv, tmp_path / "page" / "compare.json")
    assert "expected what `cotbal train` wrote" in both.output
    refused = call("compare", csv, "--suite", "table2")
    assert "--suite: only with the YAML of one estimate" in refused.output


def test_a_column_that_may_hold_shares_and_percentages_is_told_of_one_file_and_of_several(tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("run,a,b/x\nSTL,0.62,51.3\nours,66,58.2\n")
    told = "task 'a': 0.62 in row 'STL' and 66 in row 'ours'; if one is a share and the other a percentage"
    shown = call("compare", one, "--out", tmp_path / "page").stdout.splitlines()
    assert [line for line in shown if "percentage" in line] == [
        f"- Perhaps two scales: {told}, write the column in one scale."
    ]
    # The percentages of one column and the shares of another are both right.
    one.write_text("run,a,b/x\nSTL,0.62,51.3\n")
    two.write_text("run,a,b/x\nours,0.66,58.2\n")
    both = json.loads(call("compare", one, two, "--out", tmp_path / "page", "--json").stdout)
    assert not any("two scales" in line for line in both["statements"])
    two.write_text("run,a,b/x\nours,66,58.2\n")
    both = json.loads(call("compare", one, two, "--out", tmp_path / "page", "--json").stdout)
    assert both["statements"][0] == f"Perhaps two scales: {told}, write the column in one scale."
