"""Several tables of final models as one."""

import pytest

from cotbal.compare import Column, Finals, Model, compare, merged
from tests.compare.test_comparison import COLUMNS, drawn


def test_tables_are_merged_by_their_tests_and_names_that_come_twice_are_told_apart():
    first, second = drawn(), drawn(generator=1)
    both = merged({"x": first, "y": Finals(COLUMNS, {"EW": second.models["EW"]})})
    assert list(both.models) == ["STL", "EW (x)", "CoTBal", "EW (y)"]
    assert both.models["EW (y)"] == second.models["EW"]
    with pytest.raises(ValueError, match="y: expected the test sets of x; not in both: b/one, b/two, c"):
        merged({"x": first, "y": Finals(COLUMNS[:1], {})})
    higher = (*COLUMNS[:3], Column("c"))
    with pytest.raises(ValueError, match="y: c: x says that lower is better"):
        merged({"x": first, "y": Finals(higher, {})})


def test_the_same_model_in_two_tables_is_one_and_another_of_its_name_can_be_the_baseline():
    first, second = drawn(), drawn(generator=1)
    copy = {0: Model(**{**vars(first.models["STL"][0]), "details": {"models": "elsewhere"}})}
    theirs = {"STL": copy, "TLA": second.models["EW"]}
    both = merged({"x": first, "y": Finals(COLUMNS, theirs)})
    assert list(both.models) == ["STL", "EW", "CoTBal", "TLA"]
    assert compare(both)["baseline"] == "STL"
    both = merged({"x": first, "y": Finals(COLUMNS, {**theirs, "STL": second.models["STL"]})})
    assert any('choose one: --baseline "STL (x)".' in line for line in compare(both)["statements"])
    measured = compare(both, baseline="STL (x)")
    assert measured["baseline"] == "STL (x)"
    assert measured["statements"][0].startswith(
        "Every method is measured against STL (x), those of the tables of STL (y) as well: against"
    )
    assert not any("is measured against" in line for line in compare(first, baseline="EW")["statements"])


def test_scores_by_two_metrics_are_not_put_into_one_column():
    def table(metric="score", source="test"):
        return Finals((Column("a", metric=metric, source=source),), {metric: {0: Model({"a": 0.5})}})

    with pytest.raises(ValueError, match="y: a: expected scores by EM as in x, got ANLS"):
        merged({"x": table("EM"), "y": table("ANLS")})
    assert merged({"x": table("EM"), "y": table()}).columns[0].metric == "EM"
    both = merged({"x": table("EM"), "y": table("EM", "validation"), "z": table("EM")})
    assert compare(both)["statements"][0].startswith("No test scores: a has no test file")


def test_other_clusters_in_one_of_the_tables_are_other_items_and_give_no_interval():
    first, second, pairs = drawn(), drawn(generator=1), [place // 2 for place in range(60)]
    other = "a was scored on items of other clusters, or of none: on others, or in another order"
    # Items of one file are the same, whether told to belong together or not.
    one, two = {"a": "1f"}, {"a": "2e"}
    for theirs, files, reason in (
        ({"a": [0, *pairs[:-1]]}, ({}, {}), other),
        ({"a": pairs}, ({}, {}), None),
        ({}, ({}, {}), other),
        ({}, (one, {}), other),
        ({}, (one, one), None),
        ({"a": pairs}, (one, two), "the tables were scored on different test files of a"),
    ):
        ours = Finals(COLUMNS, {"STL": first.models["STL"]}, {"a": pairs}, files[0])
        table = Finals(COLUMNS, {"EW": second.models["EW"]}, theirs, files[1])
        for both in (merged({"x": ours, "y": table}), merged({"y": table, "x": ours})):
            assert compare(both)["no_intervals"] == reason
    copy = merged({"x": ours, "y": Finals(COLUMNS, {"STL": first.models["STL"]})})
    assert compare(copy)["no_intervals"] is None


def test_tables_of_different_test_files_are_not_paired_and_it_is_told():
    """As of two projects whose test files have as many items by chance."""
    ours = Finals(COLUMNS, {"STL": drawn().models["STL"]}, {}, {"a": "1f", "b/one": "30", "c": "44"})
    for sha256, reason in (
        ({"a": "1f", "b/one": "31", "c": "45"}, "the tables were scored on different test files of b/one, c"),
        ({"a": "1f", "b/one": "30"}, None),
        ({}, None),
    ):
        theirs = Finals(COLUMNS, {"EW": drawn(generator=1).models["EW"]}, {}, sha256)
        content = compare(merged({"x": ours, "y": theirs, "z": Finals(COLUMNS, {})}))
        assert content["no_intervals"] == reason
        assert any(f"as {reason}: nothing here" in line for line in content["statements"]) == bool(reason)
