"""Readers and what every source refuses, with file, record number and field."""

import gc
import hashlib
import json
import sqlite3
import sys
from dataclasses import replace
from threading import Thread

import pytest

from cotbal import json_window
from cotbal.data.gqa import prepare_gqa
from cotbal.data.json_reader import read_array, read_lists, read_object
from cotbal.data.ocrvqa import prepare_ocrvqa
from cotbal.data.pictures import Pictures, checked_within
from cotbal.data.sharegpt4v import prepare_sharegpt4v
from cotbal.data.turns import temporary_database
from cotbal.data.vqav2 import prepare_vqav2
from tests.data import publishers
from tests.data.reading import inputs, pairs, target, train

LISTS = {
    "info": {"a": [1, {"b": "]}"}]},
    "none": [],
    "n": -1.5e-3,
    "q": [{"id": i, "t": 'é"\n' * i} for i in range(5)],
}
LISTS |= {"t": True, "other": [[1], "x", None, {"y": 2}], "r": [{"id": "é"}], "last": 12}


@pytest.fixture(params=[1, 7, 64, 1 << 20])
def chunk(request, monkeypatch):
    """Chunks so small that every kind of token is cut."""
    monkeypatch.setattr(json_window, "CHUNK", request.param)


@pytest.mark.parametrize("indent", [None, 1])
def test_lists_of_an_object_are_read_as_they_stand(tmp_path, chunk, indent):
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps(LISTS, indent=indent), encoding="utf-8")
    reading = inputs()
    found = [(name, record.place, record.fields) for name, record in read_lists(path, reading, ("q", "r"))]
    wanted = [("q", f"'q', record {n}", row) for n, row in enumerate(LISTS["q"], start=1)]
    assert found == [*wanted, ("r", "'r', record 1", {"id": "é"})]
    assert list(reading.hashes().values()) == [hashlib.sha256(path.read_bytes()).hexdigest()]


def test_members_of_an_object_are_read_with_their_keys(tmp_path, chunk):
    path = tmp_path / "a.json"
    content = {f"k{n}é": {"n": n} for n in range(9)}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert {key: record.fields for key, record in read_object(path, inputs())} == content


def test_file_cut_anywhere_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(json_window, "CHUNK", 16)
    path = tmp_path / "cut.json"
    whole = json.dumps(LISTS)
    for end in range(len(whole)):
        path.write_text(whole[:end])
        with pytest.raises(ValueError, match=r"cut\.json"):
            list(read_lists(path, inputs(), ("q", "r")))
        with pytest.raises(ValueError, match=r"cut\.json"):
            list(read_object(path, inputs()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"q": [{"a": 1}, 3]}', "'q', record 2: expected an object, got int"),
        (b'{"q": [{"a": 1} {"a": 2}]}', "'q': expected ',' or ']' after it, got '{'"),
        (b'{"q": [{"a": 1}], }', "expected a key in quotes, got '}'"),
        (b'{"q": 3}', "'q', record 1: expected an object, got int"),
        (b'{"p": []}', "expected an object with the list 'q', got none"),
        (b'[{"a": 1}]', "expected a JSON object, got"),
        (b'{"q": []} x', "expected nothing after the object"),
        (b'{"q": [{"a": tru, "b": "and more"}]}', "'q': record 1 of the list: expecting value"),
        (b'{"q": [{"a": "\xff"}]}', "invalid start byte"),
        ('{"q": [{"a": "é"}]}'.encode("utf-16"), "invalid start byte"),
        (b'{"q": [' + b'{"a":' * 100_000, "nested too deeply"),
        (b'{"q": [{"a": ' + b"1" * 5000 + b"}]}", "limit"),
        (b"", "expected a JSON object, got ''"),
    ],
)
def test_other_content_is_told_with_file_and_place(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"a\.json") as caught:
        list(read_lists(path, inputs(), ("q",)))
    assert message in str(caught.value)


def test_array_that_is_cut_is_told_with_its_record(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}, {"a": ')
    with pytest.raises(ValueError, match=r"a\.json, record 2: the file ends inside it"):
        list(read_array(path, inputs()))


@pytest.mark.parametrize(
    "name",
    [
        "../x.jpg",
        "a/../../x.jpg",
        "/etc/passwd",
        "a\\..\\x.jpg",
        "C:/x.jpg",
        "http://a/x.jpg",
        "",
        " x",
        "a\0b",
        "a\nb",
        "\ud800",
    ],
)
def test_picture_that_climbs_out_is_refused_with_its_field(tmp_path, name):
    path = publishers.sharegpt4v(tmp_path / "c.json", [("ok.jpg", "A."), (name, "B.")])
    with pytest.raises(ValueError, match=r"c\.json: record 2, field 'image': expected a picture inside"):
        prepare_sharegpt4v(path, target(tmp_path / "out"), inputs(), validation=0, test=0)


def test_image_id_cannot_climb_out_either(tmp_path):
    publishers.gqa(tmp_path, "train", [("1", "../../x", "Who?", "me")])
    with pytest.raises(ValueError, match=r"record 1, field 'imageId'"):
        prepare_gqa(tmp_path, target(tmp_path / "out"), inputs())
    path = publishers.ocrvqa(tmp_path / "d.json", {"../x": (1, [("q", "a")])})
    with pytest.raises(ValueError, match=r"record 1, field 'imageURL'"):
        prepare_ocrvqa(path, target(tmp_path / "out"), inputs())


@pytest.mark.parametrize("text", ["../x", "/x", "a/../b", "a\\b"])
def test_images_option_cannot_climb_out(text):
    with pytest.raises(ValueError, match="--images: expected"):
        checked_within(text)


def test_missing_picture_is_told_or_left_out(tmp_path):
    (tmp_path / "pictures" / "p").mkdir(parents=True)
    (tmp_path / "pictures" / "p" / "a.jpg").write_bytes(b"x")
    path = publishers.sharegpt4v(tmp_path / "c.json", [("a.jpg", "A."), ("b.jpg", "B.")])
    where = replace(target(tmp_path / "out"), pictures=Pictures("p", tmp_path / "pictures"))
    with pytest.raises(ValueError, match=r"record 2, field 'image': expected a picture at .*b\.jpg"):
        prepare_sharegpt4v(path, where, inputs(), validation=0, test=0)
    reading = inputs(skip_invalid=True)
    prepare_sharegpt4v(path, where, reading, validation=0, test=0)
    assert [pairs(record) for record in train(tmp_path / "out" / "ShareGPT4V")] == [
        [("What do you see in this image?", "A.")]
    ]
    assert reading.left_out == {"invalid": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": ""}, "record 1, field 'answer': expected a text that is not empty"),
        ({"answer": 3}, "record 1, field 'answer': expected a text, got 3"),
        ({"question": "\ud800"}, "record 1, field 'question': expected text that UTF-8 can hold"),
        ({"question": "a <image>?"}, "record 1, field 'question': expected a text without '<image>'"),
        ({"imageId": None}, "record 1, field 'imageId': expected an id"),
    ],
)
def test_field_that_is_wrong_is_told_with_its_record(tmp_path, change, message):
    path = tmp_path / "train_balanced_questions.json"
    publishers.write_json(path, {"1": {"question": "Who?", "answer": "me", "imageId": "5"} | change})
    with pytest.raises(ValueError, match=r"train_balanced_questions\.json: ") as caught:
        prepare_gqa(tmp_path, target(tmp_path / "out"), inputs())
    assert message in str(caught.value)


def vqa_with(folder, change):
    publishers.vqav2(folder, "train2014", [(1, 5, "a?", "b"), (2, 5, "c?", "d")])
    path = folder / "v2_mscoco_train2014_annotations.json"
    content = json.loads(path.read_text())
    change(content["annotations"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows.pop(),
            "'questions', record 1, field 'question_id': expected an annotation with that id",
        ),
        (
            lambda rows: rows.append(rows[0]),
            "'annotations', record 3, field 'question_id': expected an id that stands once",
        ),
        (lambda rows: rows.append(rows[0] | {"question_id": 8}), "question_id 8: expected its question in"),
        (
            lambda rows: rows[0].update(image_id=6),
            "field 'question_id': expected an annotation with that id and the same",
        ),
        (
            lambda rows: rows[0].update(question_id="2"),
            "field 'question_id': expected a whole number, got '2'",
        ),
        (lambda rows: rows[0].update(question_id=1 << 63), "field 'question_id': expected a whole number"),
    ],
)
def test_questions_and_annotations_that_do_not_fit_are_told(tmp_path, change, message):
    vqa_with(tmp_path, change)
    with pytest.raises(ValueError, match="v2_") as caught:
        prepare_vqav2(tmp_path, target(tmp_path / "out"), inputs())
    assert message in str(caught.value)


def test_question_that_stands_twice_is_told(tmp_path):
    publishers.gqa(tmp_path, "train", [("1", "5", "Who?", "me")])
    path = tmp_path / "train_balanced_questions.json"
    member = path.read_text()[1:-1]
    path.write_text(f"{{{member}, {member}}}")
    with pytest.raises(ValueError, match=r"question '1' on '5\.jpg' stands twice"):
        prepare_gqa(tmp_path, target(tmp_path / "out"), inputs())


def test_missing_file_is_told_with_what_the_folder_holds(tmp_path):
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(
        ValueError, match=r"expected the publisher's file train_balanced_questions\.json in .*got readme\.txt"
    ):
        prepare_gqa(tmp_path, target(tmp_path / "out"), inputs())


def test_books_whose_answers_do_not_fit_are_told(tmp_path):
    path = publishers.ocrvqa(tmp_path / "d.json", {"a": (1, [("q", "a")])})
    good = json.loads(path.read_text())
    for change, message in (
        ({"answers": []}, "field 'answers': expected a list of texts"),
        ({"answers": ["a", "b"]}, "field 'answers': expected as many as questions, 1"),
        ({"answers": [""]}, "field 'answers': expected a list of texts, none empty"),
        ({"questions": [1]}, "field 'questions': expected a list of texts"),
        ({"split": 4}, "field 'split': expected 1, 2 or 3, got 4"),
        ({"split": True}, "field 'split': expected 1, 2 or 3"),
    ):
        publishers.write_json(path, {"a": good["a"] | change})
        with pytest.raises(ValueError, match=r"d\.json: record 1, ") as caught:
            prepare_ocrvqa(path, target(tmp_path / "out"), inputs())
        assert message in str(caught.value)


def test_a_database_is_closed_in_whichever_thread_the_garbage_is_collected(monkeypatch):
    """A connection is in a circle with its statements, and so waits for the collector."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    temporary_database()
    thread = Thread(target=gc.collect)
    thread.start()
    thread.join()
    # The garbage of other tests may be told too.
    assert sqlite3.ProgrammingError not in {each.exc_type for each in told}
