import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotbal.estimate.clusters import cluster_sums
from cotbal.estimate.scores import Scores
from cotbal.estimate.transforms import oriented_items

TABLE = "run,a,b\nmini,0.2,0.3\na,0.6,0.4\nb,0.3,0.5\n"


def scores(**options):
    return Scores(["a", "b"], mini=[0.2, 0.3], probes=[[0.6, 0.4], [0.3, 0.5]], **options)


def written(tmp_path, text):
    path = tmp_path / "scores.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_are_float64_copies():
    mini = torch.tensor([0.25, 0.5], dtype=torch.float32, requires_grad=True)
    table = Scores(("a", "b"), mini, torch.eye(2))
    assert table.tasks == ("a", "b")
    assert table.mini.dtype == table.probes.dtype == torch.float64
    assert not table.mini.requires_grad
    assert table.mini.tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b"], [0.2], [[1, 2], [3, 4]]), r"mini: expected shape \(2,\) for 2 tasks, got \(1,\)"),
        ((["a", "b"], [0.2, 0.3], [[1, 2]]), r"probes: expected shape \(2, 2\) for 2 tasks, got \(1, 2\)"),
        ((["a", "b"], [0.2, 0.3], [[1, 2], [3]]), "probes: expected rows of numbers of equal length"),
        ((["a", "b"], [0.2, None], [[1, 2], [3, 4]]), "mini: expected rows of numbers"),
        (
            (["a", "b"], [0.2, math.nan], [[1, 2], [3, 4]]),
            "run 'mini', task 'b': expected a finite score, got nan",
        ),
        (
            (["a", "b"], [0.2, 0.3], [[1, 2], [math.inf, 4]]),
            "run 'b', task 'a': expected a finite score, got inf",
        ),
        ((["a", "a"], [0.2, 0.3], [[1, 2], [3, 4]]), "repeated: a"),
        (([], [], []), "at least one task"),
        ((["a", "mini"], [0.2, 0.3], [[1, 2], [3, 4]]), "mini names a row of the score table"),
    ],
)
def test_bad_values_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scores(*arguments)


@pytest.mark.parametrize("given_one", ["single_mini", "single_full"])
def test_single_task_runs_come_in_pairs(given_one):
    with pytest.raises(ValueError, match="expected both or neither"):
        scores(**{given_one: [0.1, 0.2]})


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"c": {"a": [1]}}, "no such run 'c'"),
        ({"mini": {"c": [1]}}, "no such task 'c'"),
        ({"mini": {"a": [1, 0]}, "a": {"a": [1]}}, "expected 2 items as in the other runs, got 1"),
        ({"mini": {"a": []}}, "expected a 1-d list of scores"),
        ({"mini": {"a": [[1]]}}, "expected a 1-d list of scores"),
        ({"mini": {"a": [1, math.nan]}}, "expected finite scores, got nan"),
        ({"mini": {"a": ["x"]}}, r"items\['mini'\]\['a'\]"),
    ],
)
def test_bad_items_raise(items, message):
    with pytest.raises(ValueError, match=message):
        scores(items=items)


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        ({"b": [0, 1]}, r"clusters\['b'\]: expected one of the tasks with items: a"),
        ({"a": [0]}, r"clusters\['a'\]: expected 2 whole numbers, one per item, got shape \(1,\)"),
        ({"a": [0, 0.5]}, "expected 2 whole numbers"),
    ],
)
def test_clusters_that_are_not_of_the_items_raise(clusters, message):
    with pytest.raises(ValueError, match=message):
        scores(items={"mini": {"a": [1, 0]}}, clusters=clusters)


def test_transforms_turn_lower_is_better_around():
    table = scores(
        transforms={"b": "complement: 2", "a": "reciprocal"}, single_mini=[1, 1], single_full=[4, 0.5]
    )
    assert table.mini.tolist() == [0.2, 0.3]
    assert table.transforms == {"a": "reciprocal", "b": "complement: 2.0"}
    assert table.oriented("mini").tolist() == pytest.approx([5, 1.7])
    assert table.oriented("probes").flatten().tolist() == pytest.approx([1 / 0.6, 1.6, 1 / 0.3, 1.5])
    assert table.oriented("single_full").tolist() == pytest.approx([0.25, 1.5])


@pytest.mark.parametrize(
    "transform", ["negate", "complement", "complement: x", "complement: inf", "", None, 1]
)
def test_other_transforms_raise(transform):
    with pytest.raises(
        ValueError, match=r"transforms\['a'\]: expected 'reciprocal' \(1/m\) or 'complement: bound'"
    ):
        scores(transforms={"a": transform})


def test_the_transform_of_an_unknown_task_raises():
    with pytest.raises(ValueError, match="transforms: no such task 'c'"):
        scores(transforms={"c": "reciprocal"})


def test_the_reciprocal_of_zero_raises():
    table = Scores(["a", "b"], [0.0, 1.0], [[1, 1], [0, 1]], transforms={"a": "reciprocal"})
    for run in ("mini", "probes"):
        with pytest.raises(ValueError, match=r"needs values > 0, got 0\.0"):
            table.oriented(run)


def test_transformed_items_have_the_transformed_mean_and_to_first_order_its_noise():
    # Means 2 and 4, so 1/2 and 1/4 with slopes -1/4 and -1/16.
    items = torch.tensor([[1, 3], [2, 6]], dtype=torch.float64)
    transforms = {"a": "reciprocal", "b": "complement: 5"}
    assert oriented_items(items, "a", transforms).tolist() == [[0.75, 0.25], [0.375, 0.125]]
    assert oriented_items(items, "b", transforms).tolist() == [[4, 2], [3, -1]]


def test_a_file_is_read_by_name_not_by_place(tmp_path):
    table = Scores.from_csv(written(tmp_path, "\ufeffrun, a ,b\n\nb,0.3,0.5\nmini,0.2,0.3\n a,0.6,4e-1\n"))
    assert table.tasks == ("a", "b")
    assert table.mini.tolist() == [0.2, 0.3]
    assert table.probes.tolist() == [[0.6, 0.4], [0.3, 0.5]]


def test_the_optional_rows_are_read(tmp_path):
    table = Scores.from_csv(
        written(tmp_path, TABLE + "single_mini,0.1,0.2\nsingle_full,0.7,0.8\ntransform,,complement: 1\n")
    )
    assert table.single_mini.tolist() == [0.1, 0.2]
    assert table.single_full.tolist() == [0.7, 0.8]
    assert table.transforms == {"b": "complement: 1.0"}


FINITE = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text("abcé ,\"'ñ", min_size=1).filter(lambda name: name == name.strip())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_writing_and_reading_keeps_every_bit(tmp_path, data):
    tasks = data.draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    row = st.lists(FINITE, min_size=len(tasks), max_size=len(tasks))
    single = (
        {name: data.draw(row) for name in ("single_mini", "single_full")} if data.draw(st.booleans()) else {}
    )
    first = Scores(
        tasks,
        data.draw(row),
        [data.draw(row) for _ in tasks],
        transforms={tasks[0]: f"complement: {data.draw(FINITE)!r}"},
        **single,
    )
    again = Scores.from_csv(first.to_csv(tmp_path / "scores.csv"))
    assert again.tasks == first.tasks
    assert again.transforms == first.transforms
    for name in ("mini", "probes", *single):
        assert torch.equal(getattr(again, name), getattr(first, name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the header"),
        ("task,a,b\n", "expected the header"),
        (TABLE.replace(",", ";"), "got 'run;a;b'; separate the cells by commas"),
        (
            TABLE.replace("\n", ",\n"),
            "a name in each column of the header, got none in the last of 4; remove",
        ),
        ('{"schema_version": 1, "items": {}}', "got JSON; the table comes first"),
        (TABLE.replace(",", "\t"), "separate the cells by commas"),
        ("run\nmini\n", "at least one task"),
        ("run,a,a\n", "repeated: a"),
        (TABLE.replace("0.4", "0_4"), "row 'a', task 'b': expected a number, got '0_4'"),
        (TABLE.replace("0.4", ""), "row 'a', task 'b': expected a number, got an empty cell"),
        (TABLE.replace("0.4", "n/a"), "row 'a', task 'b': expected a number, got 'n/a'"),
        (TABLE.replace("0.4", "40 %"), "expected a number, got '40 %'; leave the sign out"),
        (TABLE.replace("0.4", '"0,4"'), "expected a number, got '0,4'; write a point for the comma"),
        (TABLE.replace("0.4", "nan"), "run 'a', task 'b': expected a finite score, got nan"),
        (TABLE.replace(",0.4", ""), "row 'a': expected 2 cells, one per task, got 1"),
        (TABLE.replace("0.4", "0.4,0.5"), "row 'a': expected 2 cells, one per task, got 3"),
        (TABLE.replace("b,0.3,0.5\n", ""), "missing rows: b"),
        (TABLE.replace("mini,0.2,0.3\n", ""), "missing rows: mini"),
        (TABLE + "a,1,2\n", "row 'a' stands twice"),
        (TABLE + "a" * 200_000, "field larger than field limit"),
        (TABLE + "c,1,2\n", "unknown row 'c'"),
        (TABLE + "single_mini,1,2\n", "expected both or neither"),
        (TABLE + "transform,negate,\n", r"transforms\['a'\]"),
    ],
)
def test_a_bad_file_raises_with_its_name(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        Scores.from_csv(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_utf8_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_bytes(TABLE.replace("b", "\xe5").encode("latin-1"))
    with pytest.raises(ValueError, match=r"scores.csv: expected text in UTF-8, got the byte 0xe5; save it"):
        Scores.from_csv(path)


def test_clusters_may_be_hashes_beyond_int64():
    rows = {run: {task: [1.0, 0.0, 1.0, 0.0] for task in "ab"} for run in ("mini", "a", "b")}
    small, large = (
        Scores(["a", "b"], [0.5] * 2, [[0.5] * 2] * 2, items=rows, clusters={"a": [n, n, 7, 7]})
        for n in (3, 2**64)
    )
    both = [cluster_sums(each.items["a"]["a"], each.clusters["a"], "a") for each in (small, large)]
    assert [sizes.tolist() for _, sizes in both] == [[2.0, 2.0]] * 2
    assert cluster_sums(large.items["a"]["a"], [2**64, -(2**70), 1, 1], "a")[1].tolist() == [1.0, 1.0, 2.0]
