import json

import pytest

from cotbal.metrics import cider
from tests.collect.publishers import visatb, write_json
from tests.collect.reading import ITEMS, read

NAME = "vqa-val-6_llava-vqa-mini.json"


def edited(folder, change):
    content = json.loads((folder / NAME).read_text())
    change(content)
    write_json(folder / NAME, content)


def test_answers_images_and_rules(tmp_path):
    found = read(tmp_path, visatb(tmp_path, ITEMS))
    assert found.items == {str(item.id): item.right for item in ITEMS}
    assert found.images == {str(item.id): item.image for item in ITEMS}
    assert found.rules["rule"] == "strict"


def test_several_captions_are_a_list(tmp_path):
    text = visatb(tmp_path, ITEMS).replace("EM", "CIDEr")
    edited(tmp_path, lambda rows: rows[0]["conversations"][1].update(value=["red", "a red car"]))
    expected = cider(
        [item.answer for item in ITEMS], [["red", "a red car"], *(item.truth for item in ITEMS[1:])]
    )
    assert list(read(tmp_path, text).items.values()) == expected


def test_chunks_are_put_together(tmp_path):
    visatb(tmp_path, ITEMS)
    rows = json.loads((tmp_path / NAME).read_text())
    for part in (0, 1):
        write_json(tmp_path / "tmp" / f"vqa-val-6_llava_{part}-2.json", rows[part::2])
    found = read(tmp_path, "format=visatb from='tmp/*-2.json' parts=2 metric=EM")
    assert found.items == {str(item.id): item.right for item in ITEMS}


def test_an_id_of_several_questions_is_told_and_can_be_made_one(tmp_path):
    text = visatb(tmp_path, ITEMS)
    edited(tmp_path, lambda rows: rows[1].update(id="7"))
    with pytest.raises(ValueError, match=r"record 2, field 'id': id '7' stands twice"):
        read(tmp_path, text)
    assert list(read(tmp_path, f"{text} id=id+question").items.values()) == [1, 0, 1, 1]
    with pytest.raises(ValueError, match=r"id: expected id or id\+question, got 'x'"):
        read(tmp_path, f"{text} id=x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda rows: rows[2]["conversations"][1].pop("generative_value"),
            "record 3, field 'generative_value' of the second turn: expected a text, got nothing",
        ),
        (lambda rows: rows[2]["conversations"].pop(), "record 3, field 'conversations': expected two turns"),
        (
            lambda rows: rows[2].pop("conversations"),
            "record 3, field 'conversations': expected two turns.* got nothing",
        ),
        (
            lambda rows: rows[2]["conversations"][1].update(value=[]),
            "expected a text or a list of texts as value",
        ),
        (
            lambda rows: rows[2]["conversations"][1].update(value=["x", 3]),
            "expected a text or a list of texts as value",
        ),
        (lambda rows: rows[2].pop("id"), "record 3, field 'id': expected an id, got nothing"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, change, words):
    text = visatb(tmp_path, ITEMS)
    edited(tmp_path, change)
    for option in ("", " id=id+question"):
        with pytest.raises(ValueError, match=words):
            read(tmp_path, text + option)
