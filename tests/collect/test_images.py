import hashlib

import pytest

from tests.collect.publishers import lmms_eval, predictions, vlmevalkit, write_table
from tests.collect.reading import ITEMS, read


@pytest.mark.parametrize(("writer", "field"), [(lmms_eval, "doc_id"), (vlmevalkit, "index")])
def test_a_file_tells_the_images_that_the_tool_does_not(tmp_path, writer, field):
    file = write_table(tmp_path / "images.csv", [{field: i.id, "image": i.image} for i in reversed(ITEMS)])
    found = read(tmp_path / "run", f"{writer(tmp_path / 'run', ITEMS)} images={file}")
    assert list(found.images) == list(found.items)
    assert list(found.images.values()) == [item.image for item in ITEMS]
    assert found.files[-1] == file


def test_its_image_may_have_another_name(tmp_path):
    file = write_table(tmp_path / "images.tsv", [{"id": i.id, "coco": i.image} for i in ITEMS])
    found = read(tmp_path / "run", f"{lmms_eval(tmp_path / 'run', ITEMS)} images={file} image=coco")
    assert list(found.images.values()) == [item.image for item in ITEMS]


def test_the_rows_of_one_picture_in_a_table_of_vlmevalkit_are_on_one_image(tmp_path):
    """Its LMUData/*.tsv: the picture in base64 in its first row, in the others that row's index."""
    pictures = {"a.jpg": ("7", "iVBORw0KGgo" * 900), "b.jpg": ("9", "/9j/4AAQSkZ" * 9)}
    cells = [
        content if str(i.id) == first else first for i in ITEMS for first, content in [pictures[i.image]]
    ]
    rows = [{"index": i.id, "image": cell, "answer": i.truth} for i, cell in zip(ITEMS, cells, strict=True)]
    file = write_table(tmp_path / "OCRVQA_TESTCORE.tsv", rows)
    # A large one is told by its hash.
    large = hashlib.sha256(pictures["a.jpg"][1].encode()).hexdigest()
    wanted = [{"a.jpg": large, "b.jpg": pictures["b.jpg"][1]}[i.image] for i in ITEMS]
    found = read(tmp_path / "run", f"{vlmevalkit(tmp_path / 'run', ITEMS)} images={file}")
    assert list(found.images.values()) == wanted
    # The same table as right answers.
    predictions(tmp_path / "run", ITEMS)
    text = f"format=predictions from=upload.json metric=EM truth={file} truth-id=index"
    assert list(read(tmp_path / "run", text).images.values()) == wanted


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": i.id, "image": "a"} for i in ITEMS[:2]], r"images.csv: 2 ids missing \(9, 12\), which task"),
        ([{"id": i.id, "image": ""} for i in ITEMS], "line 2, field 'image': expected an id"),
        ([{"id": 7, "image": "a"}] * 2, "line 3, field 'id': id '7' stands twice"),
        ([{"key": 7, "image": "a"}], "expected one of doc_id, id, got none of them"),
    ],
)
def test_a_file_that_does_not_tell_all_is_refused(tmp_path, rows, words):
    file = write_table(tmp_path / "images.csv", rows)
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "run", f"{lmms_eval(tmp_path / 'run', ITEMS)} images={file}")
