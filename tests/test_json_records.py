import hashlib
import json

import pytest

from cotbal import json_window
from cotbal.json_records import Broken, read_each, read_records, with_task
from cotbal.json_window import Record

LONG = [{"id": i, "text": 'é\n"\\u00e9 ]},{' * (i % 7), "n": [1.5e-7, True, None, -12]} for i in range(60)]


@pytest.fixture(params=[1, 7, 64, 1 << 20])
def chunk(request, monkeypatch):
    """Chunks so small that every kind of token is cut."""
    monkeypatch.setattr(json_window, "CHUNK", request.param)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_array_and_lines_give_the_same_records_whatever_the_chunks(tmp_path, chunk, indent, ascii_only):
    texts = [json.dumps(record, indent=indent, ensure_ascii=ascii_only) for record in LONG]
    array, lines = tmp_path / "a.json", tmp_path / "a.jsonl"
    array.write_text("\ufeff [" + " , ".join(texts) + " ]\n\n")
    lines.write_text("\n".join(texts))
    for path in (array, lines):
        digest = hashlib.sha256()
        found = list(read_records(path, digest))
        assert [record.content for record in found] == LONG
        assert [record.text for record in found] == texts
        assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_file_cut_anywhere_is_noticed(tmp_path, chunk, form):
    path = tmp_path / "cut"
    whole = json.dumps(LONG[:3]) if form == "json" else "\n".join(map(json.dumps, LONG[:3]))
    for end in range(1, len(whole)):
        path.write_text(whole[:end])
        if form == "jsonl" and whole[:end].rstrip() in ("\n".join(map(json.dumps, LONG[:n])) for n in (1, 2)):
            continue
        with pytest.raises(ValueError, match=r"cut(, record \d)?: the file ends inside"):
            list(read_records(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got none"),
        ("[]", "got none"),
        ("[1]", "record 1: expected an object, got '1]'"),
        ('[{"a": 1}, []]', "record 2: expected an object"),
        ('[{"a": 1} {"a": 2}]', "record 2: expected ',' or ']' before it, got '{'"),
        ('[{"a": 1},]', "record 2: expected an object, got ']'"),
        ('[{"a": 1}] {"a": 2}', "record 2: expected nothing after the array"),
        ('[{"a": 1}]x', "record 2: expected nothing after the array"),
        ('[{"a": 1}, {"a": x, "b": "and something more"}]', "record 2: expecting value (its character 7)"),
        ('{"a": 1}\nhello', "record 2: expected an object, got 'hello'"),
        ('{"a": "line\nbreak, and more of it"}', "record 1: invalid control character at"),
    ],
)
def test_what_holds_no_records_is_told_with_the_number(tmp_path, text, message):
    path = tmp_path / "bad"
    path.write_text(text)
    with pytest.raises(ValueError, match="bad") as caught:
        list(read_records(path))
    assert message in str(caught.value)


def test_bytes_that_are_no_utf_8(tmp_path):
    path = tmp_path / "bad"
    path.write_bytes(b'[{"a": "\xc3\xa9"}, {"a": "\xff"}]')
    with pytest.raises(ValueError, match="bad, record 2: 'utf-8' codec can't decode byte 0xff"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("name", "data"), [("t.csv", b"Q,A\nwhat?,this\n"), ("T.PARQUET", b"PAR1\x15\xc8"), ("t.tsv", b"Q\tA\n")]
)
def test_a_table_is_told_how_it_becomes_records(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=f"{name}, record 1: .*; `cotbal prepare generic` makes records of a"
    ):
        list(read_records(path))


@pytest.mark.parametrize("broken", [b'{"a": [1, {', b'{"b": "\xff"}', b"nothing", b'{"a": "' + b"x" * 3000])
def test_broken_line_is_passed_over_whatever_the_chunks(tmp_path, chunk, monkeypatch, broken):
    monkeypatch.setattr(json_window, "MAX_RECORD", 2000)
    texts = [json.dumps(record).encode() for record in LONG]
    texts[0] = texts[7] = texts[8] = texts[-1] = broken
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(texts))
    digest = hashlib.sha256()
    found = list(read_each(path, digest))
    assert [place for place, each in enumerate(found) if isinstance(each, Broken)] == [0, 7, 8, 59]
    assert [each.content for each in found if isinstance(each, Record)] == [*LONG[1:7], *LONG[9:-1]]
    assert not any(each.last for each in found if isinstance(each, Broken))
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="jsonl, record 1: "):
        list(read_records(path))


@pytest.mark.parametrize("form", ["[{}, {}]", "{}\n{}\n", "{}\n{}"])
def test_a_number_of_more_digits_than_python_reads_is_told(tmp_path, form):
    path = tmp_path / "bad.jsonl"
    path.write_text(form.replace("{}", '{"a": 1}', 1).replace("{}", '{"a": ' + "1" * 5000 + "}"))
    with pytest.raises(ValueError, match=r"bad.jsonl, record 2: expected numbers of at most 4,300 digits"):
        list(read_records(path))


@pytest.mark.parametrize("text", ['{\n"a": {\n"b": x}}\n{"c": 1}', '[{"a": 1},\n{"b": },\n{"c": 1}]'])
def test_nothing_is_read_behind_a_mistake_where_a_line_is_no_record(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    *before, broken = read_each(path)
    assert isinstance(broken, Broken)
    assert broken.last
    assert [each.content for each in before] == ([{"a": 1}] if text[0] == "[" else [])


def test_broken_file_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(json_window, "CHUNK", 100)
    monkeypatch.setattr(json_window, "MAX_RECORD", 1000)
    path = tmp_path / "bad"
    path.write_text('[{"a": "' + "x" * 100_000)
    with pytest.raises(ValueError, match="record 1: expected records of at most 0 MiB"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id": 1.50}', '{"task": "vqa é", "id": 1.50}'),
        ("{ }", '{"task": "vqa é"}'),
        ('{"id": 1, "task": "vqa é"}', '{"id": 1, "task": "vqa é"}'),
        ('{\n "id": "a\\nb"}', '{"task": "vqa é", "id": "a\\nb"}'),
    ],
)
def test_record_gets_its_task_and_keeps_every_other_character(text, expected):
    content = json.loads(text)
    stamped = with_task(Record(text, content), "vqa é")
    assert stamped == expected
    assert json.loads(stamped) == {**content, "task": "vqa é"}


def test_null_in_the_place_of_a_task_is_none_as_for_the_check_of_the_data():
    text = '{"id": 1, "task": null, "text": "é"}'
    stamped = with_task(Record(text, json.loads(text)), "vqa")
    assert stamped == '{"id": 1, "task": "vqa", "text": "é"}'


@pytest.mark.parametrize("other", ["gqa", "", 3])
def test_record_of_another_task_is_refused(other):
    content = {"task": other}
    with pytest.raises(ValueError, match="is listed under 'vqa'"):
        with_task(Record(json.dumps(content), content), "vqa")
