import time

import pytest

from cotbal.tasks import DECLARED, TaskIndex, read_file_tasks, record_task, task_names


def test_ids_are_places_and_back():
    index = TaskIndex(("b", "a", "c"))
    assert [index.id(name) for name in index.names] == [0, 1, 2]
    assert [index.name(i) for i in range(len(index))] == ["b", "a", "c"]


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(ValueError, match=r"'VQAv' \(did you mean 'VQAv2'\?\); known tasks: VQAv2, GQA"):
        TaskIndex(("VQAv2", "GQA")).id("VQAv")
    with pytest.raises(ValueError, match=r"'gqa' \(did you mean 'GQA'\?\); known tasks: VQAv2, GQA"):
        TaskIndex(("VQAv2", "GQA")).id("gqa")


@pytest.mark.parametrize("task_id", [-1, 2])
def test_an_id_out_of_range_raises(task_id):
    with pytest.raises(ValueError, match="0 <= id < 2"):
        TaskIndex(("a", "b")).name(task_id)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("abc", TypeError, "single string"),
        ([], ValueError, "at least one"),
        (["a", 1], TypeError, "strings"),
        (["a", " "], ValueError, "non-empty"),
        (["a", "b", "a"], ValueError, "repeated: a"),
        ({"a", "b"}, TypeError, r"order of their ids, got a set, which has none; pass sorted\(...\)"),
        (frozenset("a"), TypeError, "got a set"),
    ],
)
def test_bad_names_raise(names, error, message):
    with pytest.raises(error, match=message):
        task_names(names)


def test_the_column_of_a_data_set_is_told_at_once():
    """A name for each record: compared in pairs, those of LLaVA's mixture would take hours."""
    start = time.process_time()
    with pytest.raises(ValueError, match=r"repeated: a, b$"):
        task_names(["a", "b"] * 10_000)
    assert time.process_time() - start < 1


def test_a_record_tells_its_task_in_this_order():
    options = {"field": "channel", "file": "data/gqa.json", "file_tasks": {"gqa.json": "from file"}}
    assert record_task({"task": "own", "channel": "field"}, **options) == "own"
    assert record_task({"channel": "field"}, **options) == "field"
    assert record_task({}, **options) == "from file"
    assert record_task({"channel": "field"}, file="x", file_tasks={"x": "file"}) == "file"


def test_several_declared_fields_are_looked_up_in_their_order():
    assert record_task({"channel": "a", "source": "b"}, field=DECLARED) == "a"
    assert record_task({"channel": None, "source": "b"}, field=DECLARED) == "b"
    with pytest.raises(ValueError, match="expected its task in 'task' or 'channel' or 'source', or that of"):
        record_task({}, field=DECLARED)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["GQA"], "-t: expected FILE=TASK, as in vqa.json=VQAv2, got 'GQA'"),
        (["=GQA"], "got '=GQA'"),
        (["a.json= "], "got 'a.json= '"),
        (["a.json=A", "b.json=B", "a.json=C"], "-t: expected one task for a.json, got 'A' and 'C'"),
    ],
)
def test_words_that_do_not_tell_the_task_of_a_file_raise(words, message):
    with pytest.raises(ValueError, match=message):
        read_file_tasks(words, "-t")


def test_the_whole_path_goes_before_the_bare_file_name():
    tasks = {"train.json": "bare", "gqa/train.json": "whole"}
    assert record_task({}, file="gqa/train.json", file_tasks=tasks) == "whole"
    assert record_task({}, file="vqa/train.json", file_tasks=tasks) == "bare"


@pytest.mark.parametrize("record", [{"id": 7}, {"id": 7, "task": None}, {"id": 7, "source": "GQA"}])
def test_a_record_without_a_task_raises_with_its_id(record):
    told = (
        r"record 7: expected its task in 'task' or 'channel', or that of its file other\.json, got neither; "
        r"add the field, or tell the file's task: --tasks FILE=TASK, in Python \{file: task\}$"
    )
    with pytest.raises(ValueError, match=told):
        record_task(record, field="channel", file="other.json", file_tasks={"gqa.json": "GQA"})


def test_without_its_file_the_files_tell_no_task():
    with pytest.raises(ValueError, match="expected its task in 'task', or that of its file, got neither"):
        record_task({"id": 7}, file_tasks={"gqa.json": "GQA"})


def test_a_name_in_another_unicode_form_is_told_so():
    """Both look the same on the screen."""
    with pytest.raises(
        ValueError, match="looks like 'caf\u00e9', but in another Unicode form: write both alike"
    ):
        TaskIndex(("vqa", "caf\u00e9")).id("cafe\u0301")
    with pytest.raises(ValueError, match=r"did you mean 'caf\u00e9'\?"):
        TaskIndex(("vqa", "caf\u00e9")).id("cafe")


def test_names_that_come_twice_make_no_index():
    with pytest.raises(ValueError, match="names: each task may stand once, repeated: a"):
        TaskIndex(("a", "a"))


def test_a_task_that_is_no_string_raises():
    with pytest.raises(TypeError, match="record 7, field 'task'"):
        record_task({"id": 7, "task": 3})


@pytest.mark.parametrize("record", [{"task": 3}, {"id": None}])
def test_a_record_without_an_id_is_called_so(record):
    with pytest.raises((TypeError, ValueError), match=r"^a record without an id[,:]"):
        record_task(record)
