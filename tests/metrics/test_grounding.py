import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.metrics import acc_at_iou, box_iou, parse_box

UNIT = st.integers(0, 100).map(lambda n: n / 100)
BOX = st.tuples(UNIT, UNIT, UNIT, UNIT).filter(lambda b: b[0] < b[2] and b[1] < b[3])
WHOLE = [0, 0, 1, 1]


def written(box):
    return f"[{', '.join(f'{value:.2f}' for value in box)}]"


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.10, 0.20, 0.30, 0.40]", (0.1, 0.2, 0.3, 0.4)),
        ("[ 0.10 0.20 0.30 0.40 ]", (0.1, 0.2, 0.3, 0.4)),
        ("at [0.1,0.2 , 0.3 ,.4].", (0.1, 0.2, 0.3, 0.4)),
        ("[1, 2, 3, 4] or [5, 6, 7, 8]", (1, 2, 3, 4)),
        ("[0.5, 0.2, -0.3, 0.4]", (0.5, 0.2, -0.3, 0.4)),
        ("", None),
        ("0.1, 0.2, 0.3, 0.4", None),
        ("[0.1, 0.2, 0.3]", None),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", None),
        ("[0.1, 0.2, 0.3, 0.4", None),
        ("[0.1, , 0.3, 0.4]", None),
        ("[a, b, c, d]", None),
        ("[nan, 0.2, inf, 1e5]", None),
        ("[]", None),
    ],
)
def test_parsing(text, box):
    assert parse_box(text) == box


@given(BOX, BOX)
def test_overlap_is_symmetric_and_within_0_and_1(first, second):
    (there,), (back,) = box_iou([first], [second]), box_iou([second], [first])
    assert there == back
    assert 0 <= there <= 1
    assert (there == 1) == (first == second)


@given(BOX, BOX)
def test_overlap_counts_the_cells_of_a_grid(first, second):
    def cells(box):
        x1, y1, x2, y2 = (round(100 * value) for value in box)
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    ours, theirs = cells(first), cells(second)
    expected = len(ours & theirs) / len(ours | theirs)
    assert box_iou([written(first)], [written(second)]) == pytest.approx([expected], abs=1e-9)


@pytest.mark.parametrize(
    "prediction",
    [
        "no box",
        "[0.1, 0.2]",
        "[0.9, 0.0, 0.1, 1.0]",
        "[0.0, 0.9, 1.0, 0.1]",
        "[0.0, 1.0, 1.0, 0.0]",
        "[1.0, 0.0, 0.0, 1.0]",
        "[0.5, 0.5, 0.5, 0.9]",
        "[0.1, 0.5, 0.9, 0.5]",
        None,
        [],
        [0.0, 0.0, 1.0],
        [math.nan, 0.0, 1.0, 1.0],
        [0.0, 0.0, math.inf, 1.0],
    ],
)
def test_what_is_no_box_scores_0(prediction):
    assert box_iou([prediction], [WHOLE]) == [0.0]
    assert acc_at_iou([prediction], [WHOLE]) == [0.0]


def test_boxes_that_touch_do_not_overlap():
    assert box_iou([[0, 0, 0.5, 1]], [[0.5, 0, 1, 1]]) == [0.0]


def test_accuracy_is_strictly_above_the_threshold():
    boxes = [[0, 0, 0.5, 1], [0, 0, 0.51, 1], [0, 0, 0.8, 1]]
    assert acc_at_iou(boxes, [WHOLE] * 3) == [0.0, 1.0, 1.0]
    assert acc_at_iou(boxes, [WHOLE] * 3, threshold=0.75) == [0.0, 0.0, 1.0]
    assert acc_at_iou([*boxes, []], [WHOLE] * 4, threshold=0) == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "reference",
    [
        "none",
        "[0.1, 0.2]",
        [0.9, 0, 0.1, 1],
        [0, 0, 0, 1],
        [0, 0.9, 1, 0.1],
        [0, 0, 1, 0],
        [0, 0, math.inf, 1],
    ],
)
def test_a_bad_reference_raises(reference):
    with pytest.raises(ValueError, match=r"references\[1\]: expected a box"):
        box_iou([WHOLE, WHOLE], [WHOLE, reference])


@pytest.mark.parametrize("threshold", [-0.01, 1, 50])
def test_a_bad_threshold_raises(threshold):
    with pytest.raises(ValueError, match="threshold"):
        acc_at_iou([WHOLE], [WHOLE], threshold=threshold)


@pytest.mark.parametrize(
    ("predictions", "references", "error", "message"),
    [
        ([], [], ValueError, "at least one item"),
        ([WHOLE], [WHOLE, WHOLE], ValueError, "got 2 for 1"),
        ("[0, 0, 1, 1]", [WHOLE], TypeError, "single string"),
    ],
)
def test_bad_items_raise(predictions, references, error, message):
    with pytest.raises(error, match=message):
        box_iou(predictions, references)


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.7])
def test_an_overlap_of_just_the_threshold_is_nowhere_above_it(threshold):
    for left in range(0, 50, 7):
        for height in range(1, 100, 9):
            wanted = [left / 100, 0.0, (left + 20) / 100, height / 100]
            just, more = (
                [left / 100, 0.0, (left + width) / 100, height / 100]
                for width in (20 * threshold, 20 * threshold + 0.02)
            )
            assert acc_at_iou([just, more], [wanted] * 2, threshold=threshold) == [0.0, 1.0]
