"""Bad input, item by item: each ends in a clear line, and the rest of the work is kept.

That every key of the file is checked, wherever it stands, is in tests/project/test_config.py.
"""

import json

import pytest

from tests.cli.commands import call
from tests.project.toy import starts, write


def one_line(result):
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


@pytest.mark.parametrize(
    ("place", "wrong", "meant"),
    [
        ((), "seedz", "seeds"),
        ((), "shrnk", "shrink"),
        (("tasks", "a"), "validaton", "validation"),
        (("train",), "epoch", "epochs"),
        (("evaluate",), "comand", "command"),
        (("resources",), "slot", "slots"),
    ],
)
def test_wrong_key_is_named_with_its_line_and_the_key_that_was_meant(tmp_path, place, wrong, meant):
    path = write(tmp_path)
    value = json.loads(path.read_text())
    at = value
    for step in place:
        at = at[step]
    at[wrong] = 1
    path.write_text(json.dumps(value, indent=1))
    (number,) = [n for n, line in enumerate(path.read_text().splitlines(), 1) if f'"{wrong}"' in line]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.json").write_text("before")
    message = one_line(call("run", path))
    assert message.startswith(f"cotbal: {path}, line {number}: {'.'.join((*place, wrong))}: unknown key")
    assert f"did you mean '{meant}'?" in message
    assert [file.read_text() for file in (tmp_path / "out").iterdir()] == ["before"]


@pytest.mark.parametrize(
    ("who", "how", "words", "missing"),
    [
        pytest.param("probe a", "fails", "run 'probe a' failed in {folder}:", 4, marks=pytest.mark.full),
        pytest.param(
            "probe a", "empty", "the command ended well but left {{output}} empty", 4, marks=pytest.mark.full
        ),
        pytest.param(
            "mini on b",
            "fails",
            "the command ended with exit status 1; the end of {folder}/log.txt:",
            1,
            marks=pytest.mark.full,
        ),
        pytest.param(
            "mini on b",
            "silent",
            "the command ended well but wrote no score; expected",
            1,
            marks=pytest.mark.full,
        ),
        ("mini on b", "truncated", "got no JSON: ", 1),
    ],
)
def test_command_that_does_not_do_its_work_is_told_and_the_rest_is_kept(tmp_path, who, how, words, missing):
    path = write(tmp_path)
    (tmp_path / "script").write_text(json.dumps({who: {how: 9}}))
    result = call("run", path, "--json")
    assert result.exit_code == 1
    name = f"evaluate {who}" if " on " in who else who
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    key = next(run["key"] for run in plan["runs"] if run["name"] == name)
    assert words.format(folder=tmp_path / "out" / "runs" / key) in result.stderr
    printed = json.loads(result.stdout)
    assert list(printed["failures"]) == [name]
    assert len(printed["missing"]) == missing
    before = starts(tmp_path)
    (tmp_path / "script").unlink()
    assert call("run", path).exit_code == 0
    assert sum((starts(tmp_path) - before).values()) == missing


@pytest.mark.parametrize(("cut", "number"), [(1, 41), (2, 41), (30, 40)])
def test_truncated_json_of_data_names_file_and_record(tmp_path, cut, number):
    path = write(tmp_path)
    file = tmp_path / "c.json"
    file.write_text(file.read_text()[:-cut])
    message = one_line(call("run", path))
    assert f"{file}, record {number}: the file ends inside" in message
    assert not starts(tmp_path)


def test_truncated_result_is_run_again_and_no_other(tmp_path):
    path = write(tmp_path)
    assert call("run", path).exit_code == 0
    weights = (tmp_path / "out" / "weights.json").read_text()
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    key = next(run["key"] for run in plan["runs"] if run["name"] == "evaluate mini on b")
    result, before = tmp_path / "out" / "runs" / key / "result.json", starts(tmp_path)
    result.write_text(result.read_text()[:-20])
    assert call("run", path).exit_code == 0
    assert dict(starts(tmp_path) - before) == {"mini on b": 1}
    assert (tmp_path / "out" / "weights.json").read_text() == weights


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            "run,a,b\nmini,.1,\na,.5,.2\nb,.1,.6\n",
            "row 'mini', task 'b': expected a number, got an empty cell",
        ),
        ("run,a,b\nmini,.1,.2\na,.5\nb,.1,.6\n", "row 'a': expected 2 cells, one per task, got 1"),
        ("run,a,b\nmini,.1,.2\na,.5,.2\n", "missing rows: b"),
        ("run,a,b\nmini,.1,.2\na,.5,none\nb,.1,.6\n", "row 'a', task 'b': expected a number, got 'none'"),
    ],
)
def test_score_table_with_a_missing_cell_names_row_and_task_and_keeps_the_old_weights(tmp_path, table, words):
    (tmp_path / "scores.csv").write_text(table)
    (tmp_path / "weights.json").write_text("before")
    message = one_line(call("weights", tmp_path / "scores.csv", "--out", tmp_path / "weights.json"))
    assert words in message
    assert (tmp_path / "weights.json").read_text() == "before"


def test_truncated_item_file_and_too_few_of_them_are_told(tmp_path):
    table = tmp_path / "scores.csv"
    table.write_text("run,a,b\nmini,.1,.2\na,.5,.2\nb,.1,.6\n")
    items = tmp_path / "items.json"
    items.write_text('{"schema_version": 1, "items": {"mini": {"a": [0.1, ')
    assert str(items) in one_line(call("weights", table, "--items", items))
    items.write_text('{"schema_version": 1, "items": {}}')
    message = one_line(call("weights", table, table, "--items", items))
    assert "--items: expected one for each of 2 score tables, got 1" in message
