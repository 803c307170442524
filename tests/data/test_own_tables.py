"""The user's own tables: `cotbal prepare generic`."""

import json
import os
from pathlib import Path

import pytest

from cotbal.data.generic import prepare_generic
from tests.data.reading import everything, inputs, pairs, rows, target, train

ROWS = [{"Q": f'What {n}, "now"?', "A": f"é{n}", "file": f"{n % 4}.jpg"} for n in range(12)]
COLUMNS = {"question": "Q", "answer": "A", "image": "file"}


def table(folder, kind):
    path = folder / f"table.{kind}"
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    else:
        import csv

        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    return path


def test_own_table_gives_the_same_records_from_each_form(tmp_path):
    options = {"task": "Mine", "columns": COLUMNS, "instruction": "Be short.", "validation": 1}
    for kind in ("csv", "jsonl", "parquet"):
        prepare_generic(table(tmp_path, kind), target(tmp_path / kind, "own"), inputs(), **options)
    folder = tmp_path / "csv" / "Mine"
    for kind in ("jsonl", "parquet"):
        for name in ("train.json", "val.jsonl"):
            assert (tmp_path / kind / "Mine" / name).read_bytes() == (folder / name).read_bytes()
    records, held = train(folder), rows(folder / "val.jsonl")
    assert len(records) == 3
    assert len({row["image"] for row in held}) == 1
    answers = [answer for record in records for _, answer in pairs(record)] + [row["answer"] for row in held]
    assert sorted(answers) == sorted(row["A"] for row in ROWS)
    assert not {record["image"] for record in records} & {row["image"] for row in held}
    assert records[0]["conversations"][0]["value"].endswith("?\nBe short.")


def test_path_that_is_no_utf8_is_no_hindrance(tmp_path):
    # As an archive of another machine leaves it.
    folder = tmp_path / os.fsdecode(b"gbk\xca\xfd")
    folder.mkdir()
    path = table(folder, "jsonl")
    path.write_text(f'{{"Q": 1, "A": "b"}}\n{path.read_text(encoding="utf-8")}', encoding="utf-8")
    options = {"task": "Mine", "columns": {"question": "Q", "answer": "A"}}
    (written,) = prepare_generic(path, target(tmp_path / "out"), inputs(skip_invalid=True), **options)
    assert list(written["inputs"]) == [r"gbk\udcca\udcfd/table.jsonl"]
    assert json.loads((tmp_path / "out" / "Mine" / "prepared.json").read_text()) == written


def test_ending_may_be_in_capitals(tmp_path):
    for kind in ("csv", "jsonl", "parquet"):
        path = table(tmp_path, kind).rename(tmp_path / f"TABLE.{kind.upper()}")
        prepare_generic(path, target(tmp_path / kind), inputs(), task="Mine", columns=COLUMNS)
        assert len(train(tmp_path / kind / "Mine")) == 4


@pytest.mark.parametrize("picture", [{"bytes": b"PNG", "path": "1.png"}, b"PNG"])
def test_pictures_in_the_table_itself_are_told_what_to_do(tmp_path, picture):
    """As data sets of a hub have them."""
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row | {"file": picture} for row in ROWS]), path)
    with pytest.raises(
        ValueError, match=r"record 1, field 'file': .*; write those that the table holds to files"
    ):
        prepare_generic(path, target(tmp_path / "out"), inputs(), task="Mine", columns=COLUMNS)


def test_of_parquet_the_named_columns_alone_are_read(tmp_path):
    import pyarrow.parquet

    rows = [row | {"picture": bytes([n]) * 5000} for n, row in enumerate(ROWS)]
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), path, compression="none", use_dictionary=False
    )
    # Who reads the pictures meets what cannot be read.
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(0)
    pictures = next(c for c in map(group.column, range(4)) if c.path_in_schema == "picture")
    data = bytearray(path.read_bytes())
    data[pictures.data_page_offset : pictures.data_page_offset + 64] = b"\xff" * 64
    path.write_bytes(data)
    prepare_generic(path, target(tmp_path / "out"), inputs(), task="Mine", columns=COLUMNS)
    assert len(train(tmp_path / "out" / "Mine")) == 4
    columns = COLUMNS | {"image": "pic"}
    with pytest.raises(ValueError, match="expected the column 'pic', got Q, A, file, picture"):
        prepare_generic(path, target(tmp_path / "out"), inputs(), task="Mine", columns=columns)


@pytest.mark.parametrize("empty", ["", None])
def test_rows_without_a_picture_are_text_alone_where_they_may_be(tmp_path, empty):
    """As half of ScienceQA's; by default an empty cell is a mistake."""
    path = tmp_path / "t.jsonl"
    lines = [{"Q": f"q{n}", "A": f"a{n}", "file": empty if n % 2 else f"{n // 4}.png"} for n in range(8)]
    path.write_text("\n".join(map(json.dumps, lines)))
    options = {"task": "Mine", "columns": COLUMNS, "instruction": "Be short."}
    with pytest.raises(ValueError, match=r"record 2, field 'file': .*; --text-rows takes rows without one"):
        prepare_generic(path, target(tmp_path / "out"), inputs(), **options)
    options |= {"text_rows": True, "validation": 3}
    prepare_generic(path, target(tmp_path / "out"), inputs(), **options)
    records, held = train(tmp_path / "out" / "Mine"), rows(tmp_path / "out" / "Mine" / "val.jsonl")
    found = [(each.get("image"), *pair) for each in records for pair in pairs(each)]
    found += [(each.get("image"), each["text"], each["answer"]) for each in held]
    pictures = {row["A"]: row["file"] or None for row in lines}
    assert {answer: image for image, _, answer in found} == pictures
    assert len(records) == 6 - 3
    assert all(("image" in each) == ("<image>" in json.dumps(each)) for each in records)
    assert len({each["id"] for each in records}) == len(records)


@pytest.mark.parametrize("merge", [True, False])
def test_pictures_of_like_names_have_ids_of_their_own(tmp_path, merge):
    path = tmp_path / "t.jsonl"
    names = ["a/1.jpg", "a/1.png", "a/1-1.jpg", "a/1.jpg"]
    path.write_text(
        "\n".join(json.dumps({"Q": f"q{n}", "A": "a", "file": name}) for n, name in enumerate(names))
    )
    prepare_generic(path, target(tmp_path / "out"), inputs(), task="Mine", columns=COLUMNS, merge=merge)
    records = train(tmp_path / "out" / "Mine")
    assert len(records) == (3 if merge else 4)
    assert len({each["id"] for each in records}) == len(records)


def test_a_whole_number_is_an_answer(tmp_path):
    """As counting questions have it in JSON and Parquet; what else is no text is not guessed at."""
    import pyarrow.parquet

    path, columns = tmp_path / "t.parquet", {"question": "Q", "answer": "A"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"Q": "How many?", "A": 3}]), path)
    prepare_generic(path, target(tmp_path / "out"), inputs(), task="T", columns=columns)
    assert [pairs(record) for record in train(tmp_path / "out" / "T")] == [[("How many?", "3")]]
    for wrong in (3.0, True, ["3", "three"]):
        (tmp_path / "t.jsonl").write_text(json.dumps({"Q": "How many?", "A": wrong}))
        with pytest.raises(ValueError, match="field 'A': expected a text or a whole number; write others as"):
            prepare_generic(
                tmp_path / "t.jsonl", target(tmp_path / "out"), inputs(), task="T", columns=columns
            )


def test_own_table_of_text_alone_and_its_own_splits(tmp_path):
    path = tmp_path / "t.jsonl"
    lines = [{"q": f"q{n}", "a": f"a{n}", "s": ("train", "val", "test")[n % 3], "n": n} for n in range(6)]
    path.write_text("\n".join(map(json.dumps, lines)))
    columns = {"question": "q", "answer": "a", "split": "s", "id": "n"}
    prepare_generic(path, target(tmp_path / "out"), inputs(), task="T", columns=columns)
    folder = tmp_path / "out" / "T"
    assert [pairs(record) for record in train(folder)] == [[("q0", "a0")], [("q3", "a3")]]
    assert all("image" not in record for record in train(folder))
    found = sorted(rows(folder / "val.jsonl"), key=lambda row: row["question_id"])
    assert found[0] == {"question_id": "1", "text": "q1", "answer": "a1", "task": "T"}


@pytest.mark.parametrize("text_rows", [False, True])
def test_rows_of_text_that_have_ids_may_stand_in_any_order(tmp_path, text_rows):
    """A table that is exported again holds out the same rows, and trains on the same bytes."""
    lines = [{"Q": f"q{n}", "A": f"a{n}", "n": f"n{n}", "file": None} for n in range(30)]
    columns = {"question": "Q", "answer": "A", "id": "n"} | ({"image": "file"} if text_rows else {})
    options = {"task": "T", "columns": columns, "validation": 5, "text_rows": text_rows}
    for name, table in (("there", lines), ("back", lines[::-1])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, table)))
        prepare_generic(path, target(tmp_path / name), inputs(), **options)
    for name in ("train.json", "val.jsonl"):
        there, back = ((tmp_path / order / "T" / name).read_bytes() for order in ("there", "back"))
        assert there == back


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"Q,B\na,b\n", "expected the column 'A', got Q, B; --column answer=COLUMN names the one"),
        ("t.csv", b"Q,A\na\n", "record 1: expected a table, is it whole. expected 2 cells, got 1"),
        ("t.csv", b"Q,A\na,b\n\xff,c\n", "record 2: expected UTF-8"),
        ("t.csv", b'Q,A\na,"b', "is it whole"),
        ("t.csv", b"Q,A\na, \n", "record 1, field 'A': expected a text that is not empty"),
        ("t.csv", b"Q,A\n", "expected rows, got none"),
        ("t.jsonl", b'{"Q": 3, "A": "b"}', "record 1, field 'Q': expected a text, got 3"),
        ("t.parquet", b"PAR1 and not more", "expected a Parquet file"),
        ("t.csv", b"Q,A\n\na,b\n\n,c\n", "record 2, field 'Q': expected a text that is not empty"),
        ("t.xml", b"", "expected .csv"),
    ],
)
def test_own_table_with_a_mistake_is_told(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        prepare_generic(
            tmp_path / name,
            target(tmp_path / "out"),
            inputs(),
            task="T",
            columns={"question": "Q", "answer": "A"},
        )


OWN = [
    {"Q": f"q{n}", "A": "a", "image": f"{n}.png", "id": f"i{n}", "split": split, "task": "other"}
    for n, split in enumerate(["train", "val", "test"] * 2)
]


def written(folder, kind):
    """The table of `OWN`."""
    import pyarrow.csv
    import pyarrow.parquet

    path, table = folder / f"own.{kind}", pyarrow.Table.from_pylist(OWN)
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    elif kind == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        path.write_text(json.dumps(OWN))
    return path


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_columns_of_the_fields_own_names_are_taken(kind, tmp_path):
    """Rows of the test went into the training, and pictures were left out, without a word."""
    options = {"task": "T", "columns": {"question": "Q", "answer": "A"}}
    (told,) = prepare_generic(written(tmp_path, kind), target(tmp_path / "out", "own"), inputs(), **options)
    assert told["options"]["columns"] == options["columns"] | {n: n for n in ("image", "id", "split")}
    assert [record["image"] for record in train(tmp_path / "out" / "T")] == ["own/0.png", "own/3.png"]
    held = {name: rows(tmp_path / "out" / "T" / f"{name}.jsonl") for name in ("val", "test")}
    ids = {name: sorted(row["question_id"] for row in found) for name, found in held.items()}
    assert ids == {"val": ["i1", "i4"], "test": ["i2", "i5"]}


def test_what_is_written_is_the_same_from_any_folder(tmp_path, monkeypatch):
    """A table in the folder of now was said to lie in the root of the disk."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "t.csv").write_text("question,answer\nwho?,me\n")
    found = []
    for folder, path in ((tmp_path, "tables/t.csv"), (tmp_path / "tables", "t.csv")):
        monkeypatch.chdir(folder)
        out = tmp_path / f"out of {folder.name}"
        (told,) = prepare_generic(Path(path), target(out), inputs(), task="T", columns={})
        found.append(everything(out))
    assert found[0] == found[1]
    assert list(told["inputs"]) == ["tables/t.csv"]


def test_a_table_of_the_fields_own_names_needs_no_columns(tmp_path):
    (tmp_path / "t.csv").write_text("answer,question\nblue,which colour?\n")
    options = {"task": "T", "columns": {}}
    (told,) = prepare_generic(tmp_path / "t.csv", target(tmp_path / "out"), inputs(), **options)
    assert told["options"]["columns"] == {"question": "question", "answer": "answer"}
    values = [turn["value"] for turn in train(tmp_path / "out" / "T")[0]["conversations"]]
    assert values == ["which colour?", "blue"]
    # The column is another field's: nothing is its own question.
    with pytest.raises(ValueError, match="--column: expected one for question, as in"):
        prepare_generic(
            tmp_path / "t.csv",
            target(tmp_path / "out"),
            inputs(),
            task="T",
            columns={"answer": "question"},
        )


def test_a_column_of_a_fields_name_may_be_declined_or_another_field(tmp_path):
    path = written(tmp_path, "json")
    columns = {"question": "Q", "answer": "id", "image": "", "split": ""}
    (told,) = prepare_generic(path, target(tmp_path / "out"), inputs(), task="T", columns=columns)
    assert told["options"]["columns"] == {"question": "Q", "answer": "id"}
    assert told["splits"]["train"]["records"] == 6


def test_a_field_that_later_records_alone_have_is_told(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"Q": "q", "A": "a"}\n{"Q": "r", "A": "a", "image": "1.png"}\n')
    columns = {"question": "Q", "answer": "A"}
    with pytest.raises(ValueError, match="record 2, field 'image': expected no such field, as record 1 has"):
        prepare_generic(tmp_path / "t.jsonl", target(tmp_path / "out"), inputs(), task="T", columns=columns)


def test_a_folder_of_pictures_without_a_column_of_them_is_refused(tmp_path):
    columns = {"question": "Q", "answer": "A", "image": ""}
    with pytest.raises(ValueError, match="--images: expected a column with the pictures' paths"):
        prepare_generic(
            written(tmp_path, "json"), target(tmp_path / "out", "p"), inputs(), task="T", columns=columns
        )
