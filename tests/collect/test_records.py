import json
import sys

import pytest

from cotbal.collect.records import Record, by_id, read_records

ROWS = [{"id": "1", "text": "a,\nb"}, {"id": "2", "text": ""}]


def written(path, kind):
    texts = {
        "jsonl": "\n".join(json.dumps(row) for row in ROWS),
        "json": json.dumps(ROWS),
        "annotations.json": json.dumps({"info": {}, "annotations": ROWS}),
        "keys.json": json.dumps({row["id"]: {"text": row["text"]} for row in ROWS}),
        "csv": 'id,text\n1,"a,\nb"\n2,\n',
        "tsv": '"id"\t"text"\n"1"\t"a,\nb"\n"2"\t""\n',
        "bom.csv": '\ufeffid,text\n1,"a,\nb"\n2,\n',
    }
    file = path / f"rows.{kind}"
    file.write_text(texts[kind], encoding="utf-8")
    return file


def test_a_cell_may_hold_a_picture_in_base64(tmp_path):
    (tmp_path / "t.tsv").write_text("index\timage\n1\t" + "A" * 200_000 + "\n")
    (record,) = read_records(tmp_path / "t.tsv")
    assert len(record.fields["image"]) == 200_000


@pytest.mark.parametrize("kind", ["jsonl", "json", "annotations.json", "keys.json", "csv", "tsv", "bom.csv"])
def test_every_kind_of_file_gives_the_same_records(tmp_path, kind):
    assert [record.fields for record in read_records(written(tmp_path, kind))] == ROWS


def test_endings_may_be_in_capitals(tmp_path):
    for kind in ("jsonl", "json", "csv", "tsv"):
        path = written(tmp_path, kind).rename(tmp_path / f"ROWS.{kind.upper()}")
        assert [record.fields for record in read_records(path)] == ROWS


def test_an_excel_file_gives_the_same_records(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["index", "hit", "text"])
    book.active.append([7, 1, "a"])
    # Excel keeps a row that is formatted and empty.
    book.active.cell(4, 1).font = openpyxl.styles.Font(bold=True)
    book.save(tmp_path / "rows.xlsx")
    (record,) = read_records(tmp_path / "rows.xlsx")
    assert (record.id("index"), record.number("hit"), record.text("text")) == ("7", 1.0, "a")
    whole = (tmp_path / "rows.xlsx").read_bytes()
    (tmp_path / "rows.xlsx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"rows.xlsx: expected an Excel file"):
        read_records(tmp_path / "rows.xlsx")


def test_an_excel_file_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "rows.xlsx").write_bytes(b"")
    with pytest.raises(ModuleNotFoundError) as told:
        read_records(tmp_path / "rows.xlsx")
    assert told.value.name == "openpyxl"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"id": 1}\n{"id": 2, "te', r"a.jsonl: line 2: expected JSON, is it whole\?"),
        ("a.jsonl", '{"id": 1}\n\n[2]\n', "a.jsonl: line 3: expected an object, got list"),
        ("a.jsonl", "\n", "a.jsonl: expected records, got none"),
        ("a.json", '[{"id": 1}, {"id": 2', r"a.json: expected JSON, is it whole\?"),
        ("a.json", '{"id": 1}\n{"id": 2}\n', r"Extra data.*; an object per line is JSONL: name it .jsonl"),
        ("a.jsonl", '[\n{"id": 1}]', r"line 1: expected JSON.*; an array is JSON: name it .json"),
        ("a.json", '[{"id": 1}, 2]', "a.json: record 2: expected an object, got int"),
        ("a.json", '{"1": {"a": 1}, "1": {"a": 2}}', "a.json: .* key '1' stands twice"),
        ("a.json", "7", "a.json: expected a list of objects, got int"),
        ("a.csv", "id,text\n1\n", "a.csv: line 2: expected 2 cells, got 1"),
        ("a.csv", 'id,text\n1,"a', r"a.csv: expected a table, is it whole\?"),
        ("a.csv", "id,id\n1,2\n", "a.csv: expected columns of different names"),
        ("a.pkl", "", "pickles are not read"),
        ("a.txt", "", "expected one of .jsonl"),
    ],
)
def test_a_broken_file_is_told_with_its_place(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_records(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_another_encoding_is_told(tmp_path, name):
    (tmp_path / name).write_bytes(b'"\xff\xfe"')
    with pytest.raises(ValueError, match=f"{name}: expected"):
        read_records(tmp_path / name)


@pytest.mark.parametrize("value", [None, "x", "", float("nan"), float("inf"), "nan", [1]])
def test_what_is_no_finite_number_is_told(tmp_path, value):
    record = Record(tmp_path / "f", "line 3", {"score": value})
    with pytest.raises(ValueError, match=r"f: line 3, field 'score': expected a (finite )?number"):
        record.number("score")


@pytest.mark.parametrize(("value", "number"), [(True, 1.0), ("False", 0.0), ("0.5", 0.5), (2, 2.0)])
def test_numbers_as_tools_spell_them(tmp_path, value, number):
    assert Record(tmp_path, "", {"score": value}).number("score") == number


@pytest.mark.parametrize("value", [None, True, 1.5, "", {}])
def test_what_is_no_id_is_told(tmp_path, value):
    with pytest.raises(ValueError, match="field 'id': expected an id"):
        Record(tmp_path, "line 1", {"id": value}).id("id")


def test_an_id_that_comes_twice_is_told_with_both_places(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"id": "1"}\n')
    with pytest.raises(
        ValueError, match=r"a.jsonl: line 2, field 'id': id '1' stands twice, first at line 1"
    ):
        by_id(read_records(tmp_path / "a.jsonl"), "id")
