"""Whatever a record holds, the check raises nothing; repeats are those that a comparison of all finds."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from cotbal.data.check.findings import KINDS
from cotbal.data.check.mend import mended
from cotbal.data.check.repeats import NO_PICTURE, Place, Repeats
from cotbal.data.check.schema import Examiner, Settings
from tests.data.check.records import question, record

TEXTS = st.sampled_from(
    ["", " ", "<image>", "<image>\nq?", "q?", "</s>", "[0.1, 0.2, 2, 1e9]", "[1,2,3,4]", "\ud800"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
ROLES = st.sampled_from(["human", "gpt", "user", "Assistant", "system", ""])
TURNS = st.lists(st.fixed_dictionaries({"from": ROLES, "value": TEXTS}) | VALUES, max_size=5)
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        **{
            "id": VALUES,
            "image": VALUES | st.just("a/1.jpg"),
            "conversations": TURNS | VALUES,
            "task": VALUES,
        },
        **{"channel": VALUES, "question_id": VALUES, "text": VALUES, "answer": VALUES},
    },
)


@given(RECORDS)
def test_any_record_is_examined(fields):
    before = copy.deepcopy(fields)
    found = Examiner(Settings(tasks=("GQA",)), counter=len)(fields)
    assert repr(fields) == repr(before)
    assert all(kind in KINDS and field and expected and got for kind, field, expected, got in found.faults)
    assert all(len(got) <= 80 or kind == "task" for kind, _, _, got in found.faults)
    if not found.faults:
        assert found.task == "GQA"
        assert len(found.questions) == (1 if found.held_out or not found.image else found.turns)


@given(RECORDS)
def test_mending_twice_is_mending_once_and_leaves_nothing_mendable(fields):
    before = copy.deepcopy(fields)
    made, changes = mended(fields)
    assert repr(fields) == repr(before)
    assert mended(made) == (made, [])
    if changes:
        kinds = {kind for kind, *_ in Examiner(Settings())(made).faults}
        assert "roles" not in kinds
    else:
        assert made is fields


PICTURES = st.sampled_from([None, "1.jpg", "2.jpg"])
WORDS = st.sampled_from(["a", "b", "c"])
CONVERSATIONS = st.builds(
    lambda image, turns: record(*[text for turn in turns for text in turn], image=image),
    PICTURES,
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3),
)
HELD_OUT = st.builds(lambda image, text: question(0, text, image), PICTURES, WORDS)


def asked(split, fields):
    """Picture, question and answer of each turn that is compared, with its number."""
    if "text" in fields:
        return [(0, fields.get("image"), fields["text"], fields["answer"])]
    said = [turn["value"].replace("<image>\n", "") for turn in fields["conversations"]]
    turns = list(zip(said[::2], said[1::2], strict=True))
    image = fields.get("image")
    return [(n, image, *turn) for n, turn in enumerate(turns if image else turns[:1])]


@given(st.lists(CONVERSATIONS, max_size=5), st.lists(HELD_OUT | CONVERSATIONS, max_size=4))
def test_repeats_are_those_that_a_comparison_of_all_finds(train, validation):
    rows = [(Place(0, 0, n + 1), fields) for n, fields in enumerate(train)]
    rows += [(Place(1, 1, n + 1), fields) for n, fields in enumerate(validation)]
    examiner, repeats = Examiner(Settings()), Repeats()
    repeats.extend(
        (place, examiner(fields), (fields.get("image") or "").encode().ljust(16, b"\0"), 1, "")
        for place, fields in rows
    )
    assert b"".ljust(16, b"\0") == NO_PICTURE
    records, leaked, again = set(), set(), set()
    for number, (place, fields) in enumerate(rows):
        before = [(other, each) for other, each in rows[:number] if other.split == place.split]
        if "conversations" in fields and any(
            (each.get("conversations"), each.get("image")) == (fields["conversations"], fields.get("image"))
            for _, each in before
        ):
            records.add(place)
        in_train = {turn[1:3] for other, each in rows if other.split < place.split for turn in asked(0, each)}
        mine = asked(place.split, fields)
        told = [turn for _, each in before for turn in asked(0, each)]
        for turn in mine:
            if turn[1:3] in in_train:
                leaked.add((place, turn[0]))
            elif turn[1] and any(turn[1:] == other[1:] for other in [*told, *mine[: mine.index(turn)]]):
                again.add((place, turn[0]))
    found = list(repeats.found())
    assert {each.place for each in found if each.kind == "repeated-record"} == records
    turns = {
        (each.kind, (each.place, 0 if each.turn > 9 else each.turn))
        for each in found
        if each.kind in ("leaked-question", "repeated-question")
    }
    assert {what for kind, what in turns if kind == "leaked-question"} == leaked
    assert {what for kind, what in turns if kind == "repeated-question"} == {
        (place, turn) for place, turn in again if place not in records
    }
