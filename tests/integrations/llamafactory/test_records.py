"""One file with the records of several tasks: what LLaMA-Factory is given of it, and that it trains alike."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.llamafactory import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no llamafactory: make test-llamafactory", allow_module_level=True)

import pyarrow.parquet
import torch

from cotbal.integrations.llamafactory.options import RefusedError
from cotbal.integrations.llamafactory.records import FOLDER, read_tasks, write_datasets
from tests.integrations.llamafactory.llava_records import llava_records, write
from tests.integrations.llamafactory.runs import WEIGHTS, Case, train

_TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
_RECORD = {"conversations": _TURNS, "task": "a"}
CASES = (
    Case("LLaVA, an array", kind="llava"),
    Case("two ranks, lines", kind="llava", n_ranks=2, options={"ddp_backend": "gloo"}),
    Case("interleave", kind="llava", options={"mix_strategy": "interleave_over"}),
)
pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_trains_as_on_a_dataset_for_each_task(world: Path, tmp_path: Path, case: Case) -> None:
    by_hand = train(case, world, tmp_path / "by hand")
    assert by_hand.returncode == 0, by_hand.stderr
    path = tmp_path / ("data.jsonl" if "lines" in case.name else "data.json")
    # A task that has a weight and no record, as in the run of a single task.
    weights = {f"{task}_img": weight for task, weight in WEIGHTS.items()} | {"absent": 3.0}
    options = case.options | {"dataset": None, "dataset_dir": None, "cotbal_data": str(path)}
    one = Case(case.name, case.kind, case.n_ranks, options | {"cotbal_weights": weights})
    write(path, llava_records(world))
    result = train(one, world, tmp_path / "one file")
    assert result.returncode == 0, result.stderr
    _assert_same_steps(tmp_path / "by hand", tmp_path / "one file", case.n_ranks)
    assert not (tmp_path / "one file" / "out" / FOLDER).exists()


def _assert_same_steps(folder: Path, other: Path, n_ranks: int) -> None:
    for rank in range(n_ranks):
        name = f"steps/rank{rank}.pt"
        steps, others = (torch.load(each / name, weights_only=True) for each in (folder, other))
        assert len(steps) == len(others) == 4
        for step, its in zip(steps, others, strict=True):
            assert len(step["batches"]) == len(its["batches"])
            for batch, same in zip(step["batches"], its["batches"], strict=True):
                assert batch.keys() == same.keys()
                assert all(torch.equal(batch[key], same[key]) for key in batch)
            assert all(torch.equal(value, its["gradients"][key]) for key, value in step["gradients"].items())


def test_the_records_of_a_task_keep_their_order(tmp_path: Path) -> None:
    """Also where the first thousands have no picture, and a task's name is no name of a file."""
    path = tmp_path / "data.jsonl"
    names = ("a, b", "a/b", "a_b")
    records = [
        {"conversations": [{"from": "human", "value": f"q{n}"}, _TURNS[1]], "task": names[n % 3]}
        | ({"image": [f"{n}.png", "é.png"]} if n > 4000 else {"image": "x.png"} if n > 3800 else {})
        for n in range(4500)
    ]
    records[3]["conversations"].insert(0, {"from": "system", "value": "2020-01-01"})
    write(path, records)
    file = read_tasks(path)
    assert (file.tasks, file.pictured) == (names, True)
    made = write_datasets(file, tmp_path / "made")
    info = json.loads((made / "dataset_info.json").read_text())
    assert tuple(info) == names
    for task in names:
        assert info[task]["formatting"] == "sharegpt"
        assert info[task]["columns"] == {"messages": "conversations", "images": "images"}
        rows = pyarrow.parquet.read_table(made / info[task]["file_name"]).to_pylist()
        own = [record for record in records if record["task"] == task]
        assert [row["conversations"] for row in rows] == [record["conversations"] for record in own]
        images = [record.get("image", []) for record in own]
        assert [row["images"] for row in rows] == [[i] if isinstance(i, str) else i for i in images]


def test_keys_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    """As the export of a table has them in every record."""
    empty = {"images": [], "system": "", "tools": None, "messages": None, "videos": []}
    write(tmp_path / "data.jsonl", [_RECORD | empty])
    assert read_tasks(tmp_path / "data.jsonl").tasks == ("a",)


def test_other_records_are_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    write(path, [{"conversations": _TURNS, "task": "a"}])
    first = read_tasks(path)
    made = write_datasets(first, tmp_path / "made")
    assert write_datasets(read_tasks(path), tmp_path / "made") == made
    write(path, [{"conversations": _TURNS, "task": "a"}] * 2)
    again = write_datasets(read_tasks(path), tmp_path / "made")
    assert again != made
    assert pyarrow.parquet.read_table(again / "000-a.parquet").num_rows == 2
    with pytest.raises(RefusedError, match=r"expected .*data.jsonl as it was at the start, got a changed fi"):
        write_datasets(first, tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ([], "expected an object, got '[]"),
        ({"conversations": _TURNS}, 'expected its task, as "task": "vqa", got None; give each record one'),
        ({"conversations": _TURNS, "task": 3}, "expected its task, as"),
        ({"conversations": _TURNS, "task": "a", "system": "s"}, "got the key 'system'; such data are a data"),
        ({"conversations": _TURNS, "task": "a", "images": ["a.png"]}, "pictures in `image` and"),
        ({"task": "a", "messages": _TURNS}, "expected turns in `conversations`, pictures"),
        ({"task": "a"}, 'expected `conversations` as [{"from": "human", "value": "..."}, {"from": "gpt", '),
        (
            {"task": "a", "conversations": [_TURNS[0], _TURNS[1] | {"loss": False}]},
            "trained on, got a turn of 'loss' False; part the record",
        ),
        ({"task": "a", "conversations": _TURNS[:1]}, 'in turn, got [{"from": "human", "value": "q"}]'),
        ({"task": "a", "conversations": _TURNS[::-1]}, '}, ...], in turn, got [{"from": "gpt", "v'),
        ({"task": "a", "conversations": [{"from": "human"}]}, "expected `conversations` as"),
        ({"task": "a", "conversations": "q"}, "expected `conversations` as"),
        ({"task": "a", "conversations": 3}, "expected `conversations` as"),
        (
            {"task": "a", "conversations": [{"from": "human", "value": 3}, _TURNS[1]]},
            "expected a text in `valu",
        ),
        ({"task": "a", "conversations": _TURNS, "image": ""}, 'expected a path in `image`, got ""'),
        ({"task": "a", "conversations": _TURNS, "image": ["a", 1]}, "expected a text in `image`, got 1"),
        ({"task": "a", "conversations": _TURNS, "image": "\ud83d"}, "expected Unicode characters in `image`"),
    ],
)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_a_record_that_is_not_as_it_must_be(tmp_path: Path, record: Any, said: str, name: str) -> None:
    write(tmp_path / name, [{"conversations": _TURNS, "task": "a"}, record])
    with pytest.raises(RefusedError) as refused:
        read_tasks(tmp_path / name)
    assert str(refused.value).startswith(f"cotbal_data: {tmp_path / name}, record 2: expected ")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a JSON array of records, or one record per line, got none"),
        ("[]", "expected a JSON array of records, or one record per line, got none"),
        (json.dumps([_RECORD])[:-1], "data.json, record 2: the file ends inside the array"),
        (json.dumps(_RECORD) + '\n{"a": \n1}', "data.json, record 2: expected its task"),
        (None, "expected a file that can be read, got"),
    ],
)
def test_a_file_that_holds_no_records(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "data.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RefusedError) as refused:
        read_tasks(path)
    assert said in str(refused.value)
