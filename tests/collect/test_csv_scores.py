import pytest

from tests.collect.publishers import csv_items
from tests.collect.reading import ITEMS, read


@pytest.mark.parametrize("rows", ["1,,0.5\n2,a,1\n", "2,a,1\n1,,0.5\n"])
def test_an_item_without_an_image_stands_by_itself(tmp_path, rows):
    (tmp_path / "s.csv").write_text(f"id,image,EM\n{rows}")
    assert read(tmp_path, "format=csv from=s.csv metric=EM").images == {"2": "a"}
    with pytest.raises(ValueError, match=r"s.csv: line \d, field 'image': expected an id"):
        read(tmp_path, "format=csv from=s.csv metric=EM image=image")


def test_a_row_per_item(tmp_path):
    found = read(tmp_path, csv_items(tmp_path, ITEMS))
    assert found.items == {str(item.id): item.right for item in ITEMS}
    assert found.images == {str(item.id): item.image for item in ITEMS}


@pytest.mark.parametrize(
    ("content", "score"),
    [
        ("EM\n0.5\n", 0.5),
        ("task,EM\nocr,0.2\nvqa,0.25\n", 0.25),
        ("run,ocr,vqa\nmini,0.1,0.3\nocr,0.2,0.4\n", 0.3),
    ],
    ids=["one row", "a row per task", "a score table"],
)
def test_a_score_alone(tmp_path, content, score):
    (tmp_path / "s.csv").write_text(content)
    found = read(tmp_path, "format=csv from=s.csv metric=EM")
    assert (found.score, found.items) == (score, None)


def test_a_score_table_says_where_lower_is_better(tmp_path):
    table = "run,ocr,vqa\nmini,0.1,0.3\nocr,0.2,0.4\ntransform,,complement: 1\n"
    (tmp_path / "s.csv").write_text(table)
    assert read(tmp_path, "format=csv from=s.csv metric=EM").higher_is_better is False
    (tmp_path / "s.csv").write_text(table.replace(",,complement: 1", ",reciprocal,"))
    assert read(tmp_path, "format=csv from=s.csv metric=EM").higher_is_better is None
    # Another row of a JSON file may have no run.
    (tmp_path / "s.json").write_text('[{"run": "mini", "vqa": 0.3}, {"note": "x"}]')
    assert read(tmp_path, "format=csv from=s.json metric=EM").score == 0.3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("EM\n0.5\n0.6\n", "expected one row, or a column 'id', got 2 rows"),
        ("task,EM\nocr,0.2\n", "no row with task 'vqa'; there are ocr"),
        ("run,vqa\nvqa,0.2\n", "no row with run 'mini'; there are vqa"),
        ("run,vqa\nmini,\n", "line 2, field 'vqa': expected a number, got ''"),
        ("id,EM\n1,0.5\n1,0.6\n", "line 3, field 'id': id '1' stands twice"),
        ("id,EM\n1,0.5\n2,inf\n", "line 3, field 'EM': expected a finite number, got 'inf'"),
        ("id,EM\n1,0.5\n2,1_0\n", "line 3, field 'EM': expected a number, got '1_0'"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, content, words):
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(ValueError, match=f"s.csv: {words}"):
        read(tmp_path, "format=csv from=s.csv metric=EM")
