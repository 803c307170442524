import math
from random import Random

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


def pictures(number, seed=0):
    """Boxes in pixels on pictures of several sizes, each with the picture's (width, height)."""
    random = Random(seed)
    for _ in range(number):
        width, height = random.choice([(640, 480), (480, 640), (500, 375)])
        w, h = random.uniform(0.1, 0.6) * width, random.uniform(0.2, 0.9) * height
        x, y = random.uniform(0, width - w), random.uniform(0, height - h)
        yield (x, y, x + w, y + h), (width, height)


def in_padded_square(box, size):
    side = max(size)
    left, top = ((side - length) / 2 for length in size)
    return [(value + shift) / side for value, shift in zip(box, (left, top) * 2, strict=True)]


SCALES = {
    "0..1": in_padded_square,
    "percent": lambda box, size: [100 * value for value in in_padded_square(box, size)],
    "0..1000": lambda box, size: [round(1000 * v / length) for v, length in zip(box, size * 2, strict=True)],
    "pixels": lambda box, size: list(box),
}


@pytest.mark.parametrize("theirs", SCALES)
@pytest.mark.parametrize("ours", SCALES)
@pytest.mark.parametrize("wrong", [0, 60])
def test_boxes_of_another_scale_are_refused(ours, theirs, wrong):
    references = [SCALES[theirs](*each) for each in pictures(100)]
    # Of the others, which are wrong, a tenth is no box.
    boxes = zip(pictures(100), pictures(100, seed=1), strict=True)
    predictions = [
        SCALES[ours](*(right if at >= wrong else other)) for at, (right, other) in enumerate(boxes)
    ]
    predictions[: wrong // 10] = [""] * (wrong // 10)
    # Pixels of common pictures and thousandths cannot be told apart.
    if ours == theirs or {ours, theirs} == {"pixels", "0..1000"}:
        assert any(box_iou(predictions, references))
        return
    for metric in (box_iou, acc_at_iou):
        with pytest.raises(ValueError, match=r"predictions: expected boxes on the references' scale"):
            metric(predictions, references)


def test_pixels_of_pictures_of_all_sizes_are_refused():
    """No factor brings them to 0..1."""
    random = Random(0)
    sizes = [math.exp(random.uniform(math.log(200), math.log(3000))) / 640 for _ in range(100)]
    for right in (1.0, 0.4):
        predictions = [
            [factor * value for value in (box if random.random() < right else other)]
            for factor, (box, _), (other, _) in zip(sizes, pictures(100), pictures(100, seed=1), strict=True)
        ]
        references = [in_padded_square(*each) for each in pictures(100)]
        with pytest.raises(ValueError, match="predictions: expected boxes on the references' scale"):
            box_iou(predictions, references)


def test_the_refusal_names_both_scales():
    with pytest.raises(ValueError, match=r"corners up to 0\.4, got most of another, with corners up to 400,"):
        box_iou(["[100, 200, 300, 400]", "[9, 9, 99, 99]"], [[0.1, 0.2, 0.3, 0.4], [0.01, 0.01, 0.1, 0.1]])
    assert box_iou(["[100, 200, 300, 400]"], [[0.1, 0.2, 0.3, 0.4]]) < [0.001]


@pytest.mark.parametrize("theirs", SCALES)
@pytest.mark.parametrize(
    "answer",
    [
        "[0.00, 0.00, 0.05, 0.05]",
        "[0, 0, 1, 1]",
        "[0, 0, 100, 100]",
        "[0, 0, 1000, 1000]",
        "[100, 100, 900, 900]",
        "[-5, -5, 0, 0]",
        "[7, 20000, 8, 90000]",
        "no box",
    ],
)
def test_one_wrong_box_for_every_item_is_scored(theirs, answer):
    references = [SCALES[theirs](*each) for each in pictures(200)]
    assert sum(acc_at_iou([answer] * 200, references)) < 30


@pytest.mark.parametrize("theirs", SCALES)
@pytest.mark.parametrize("ours", SCALES)
@pytest.mark.parametrize("seed", range(1, 11))
def test_wrong_boxes_are_scored_on_any_scale(ours, theirs, seed):
    references = [SCALES[theirs](*each) for each in pictures(100)]
    predictions = [SCALES[ours](*each) for each in pictures(100, seed)]
    assert sum(acc_at_iou(predictions, references)) < 15


def test_a_small_object_and_a_large_answer_are_no_other_scale():
    assert acc_at_iou([[0, 0, 0.8, 0.8], [0, 0, 500, 500]], [[0, 0, 0.1, 0.1], [0, 0, 50, 50]]) == [0.0, 0.0]
    assert acc_at_iou([[0, 0, 500, 500]], [[0, 0, 50, 50]]) == [0.0]
    assert acc_at_iou([[0, 0, 0.8, 0.8]] * 20, [[0, 0, 0.1, 0.1]] * 20) == [0.0] * 20


def test_a_few_boxes_of_another_scale_score_0():
    assert acc_at_iou([WHOLE] * 3 + [[0, 0, 1000, 1000]] * 2, [WHOLE] * 5) == [1.0] * 3 + [0.0] * 2
