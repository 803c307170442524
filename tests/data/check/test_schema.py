import pytest

from cotbal.data.check.schema import Examiner, Settings
from tests.data.check.records import question, record


def faults(fields, **settings):
    return [fault[:2] for fault in Examiner(Settings(**settings))(fields).faults]


GOOD = record("what?", "this", "who?", "that", image="a/1.jpg")


@pytest.mark.parametrize(
    "fields",
    [
        GOOD,
        record("what?", "this"),
        record("what?", "[0.1, 0.2, 0.3, 1.0]", image="1.jpg"),
        record("what?", "[9, 8, 7, 6]"),
        question("q1", "what?", "1.jpg"),
        question(7, "what?", answer=["a", "b"]),
        {key: value for key, value in question(1, "q").items() if key != "answer"},
    ],
)
def test_whole_record_has_no_fault(fields):
    assert faults(fields) == []


def changed(**fields):
    return GOOD | fields


def turn(place, **fields):
    turns = [dict(each) for each in GOOD["conversations"]]
    turns[place] |= fields
    return changed(conversations=turns)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (changed(conversations=None), ("record", "conversations")),
        (changed(conversations=[]), ("record", "conversations")),
        ({"task": "GQA", "id": 1}, ("record", "conversations")),
        (changed(conversations=["hello"]), ("record", "conversations[0]")),
        (turn(1, value=None), ("record", "conversations[1].value")),
        (turn(2, value=3), ("record", "conversations[2].value")),
        (turn(1, **{"from": 1}), ("record", "conversations[1].from")),
        (turn(2, **{"from": "gpt"}), ("roles", "conversations[2].from")),
        (turn(0, **{"from": "user"}), ("roles", "conversations[0].from")),
        (changed(conversations=GOOD["conversations"][:3]), ("roles", "conversations[2]")),
        (turn(3, value=" \n"), ("empty-answer", "conversations[3].value")),
        (turn(2, value=""), ("empty-question", "conversations[2].value")),
        (turn(0, value="<image>\n"), ("empty-question", "conversations[0].value")),
        (turn(0, value="what?"), ("image-token", "conversations[0].value")),
        (turn(2, value="<image> who?"), ("image-token", "conversations[2].value")),
        (turn(3, value="an <image>"), ("image-token", "conversations[3].value")),
        ({k: v for k, v in GOOD.items() if k != "image"}, ("image-token", "conversations[0].value")),
        (turn(1, value="\ud800"), ("text", "conversations[1].value")),
        (turn(2, value="the USER: ASSISTANT: x"), ("template", "conversations[2].value")),
        (turn(1, value="end</s>"), ("template", "conversations[1].value")),
        (turn(1, value="[0.1, 0.2, 1.1, 0.4]"), ("box", "conversations[1].value")),
        (turn(1, value="at [0.5, 0.2, 0.3, 0.4]"), ("box", "conversations[1].value")),
        (turn(1, value="[0.1, -0.2, 0.3, 0.4]"), ("box", "conversations[1].value")),
        (turn(1, value="rows [1, 2, 3, 4] are"), ("box-in-text", "conversations[1].value")),
        (changed(image=None), ("record", "image")),
        (changed(image=["a.jpg", "b.jpg"]), ("record", "image")),
        *[
            (changed(image=path), ("path", "image"))
            for path in (
                "../a.jpg",
                "/a.jpg",
                "a/../../b.jpg",
                "C:\\a.jpg",
                "a\0.jpg",
                "",
                " a.jpg",
                "http://x/a.jpg",
            )
        ],
        (changed(task=None), ("task", "task")),
        (changed(task=" "), ("task", "task")),
        (changed(task=None, channel=3), ("task", "channel")),
        (changed(id=None), ("id", "id")),
        (question(None, "what?"), ("record", "question_id")),
        (question(1, ""), ("record", "text")),
        (question(1, "<image> what?"), ("image-token", "text")),
        (question(1, "what?", answer=" "), ("empty-answer", "answer")),
        (question(1, "what?", answer=[]), ("empty-answer", "answer")),
        (question(1, "what?", answer=3), ("record", "answer")),
        (question(1, "where?", "1.jpg", answer="[120, 40, 610, 900]"), ("box", "answer")),
        (question(1, "what? [0.5, 0.1, 0.4, 0.2]", "1.jpg"), ("box", "text")),
    ],
)
def test_each_fault_is_found_where_it_is(fields, fault):
    assert faults(fields) == [fault]


def test_task_is_read_from_the_other_fields_and_held_against_those_that_there_are():
    fields = {k: v for k, v in GOOD.items() if k != "task"}
    assert Examiner(Settings())(fields | {"channel": "A", "source": "B"}).task == "A"
    assert Examiner(Settings())(fields | {"source": "B"}).task == "B"
    examiner = Examiner(Settings(file_tasks={"a.json": "C", "x/b.json": "D", "c.json": " "}))
    assert examiner(fields, "x/a.json").task == "C"
    assert examiner(fields, "x/b.json").task == "D"
    assert examiner(fields | {"source": "B"}, "x/a.json").task == "B"
    assert examiner(GOOD, "x/a.json").task == "GQA"
    for file, place in (("c.json", "file_tasks['c.json']"), ("b.json", "task"), (None, "task")):
        assert [fault[:2] for fault in examiner(fields, file).faults] == [("task", place)]
    assert faults(GOOD, tasks=("GQA", "VQAv2")) == []
    (fault,) = Examiner(Settings(tasks=("VQAv2", "GQA-2")))(GOOD).faults
    assert fault == (
        "task",
        "task",
        "a known task",
        "'GQA' (did you mean 'GQA-2'?); known tasks: VQAv2, GQA-2",
    )


def test_question_is_told_without_case_space_and_instruction():
    def digest(text, **settings):
        (found,) = Examiner(Settings(**settings))(record(text, "a", image="1.jpg")).questions
        return found.digest

    same = digest("What is it?")
    assert digest("what   IS\nit? ") == same
    assert digest("What is it?\nAnswer the question using a single word or phrase.") == same
    assert digest("What is it") != same
    assert digest("What is it? Be short.") != same
    assert digest("What is it? Be short.", instructions=("be SHORT.",)) == same
