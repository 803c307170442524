"""Scenes show what they say, and no held-out digit is ever seen in training."""

import numpy as np
import pytest

from cotbal.demo.records import alignment_corpus, load_corpus
from cotbal.demo.world import BLANK, COLORS, SIZE, SPLITS, draw_scene, load_sources


def test_splits_share_no_handwritten_digit_and_cover_all() -> None:
    indices = [set(load_sources(split).indices.tolist()) for split in SPLITS]
    assert [len(part) for part in indices] == [1197, 300, 300]
    assert set().union(*indices) == set(range(1797))


@pytest.mark.parametrize("split", SPLITS)
def test_records_of_a_split_show_digits_of_that_split_only(split: str) -> None:
    own = set(load_sources(split).indices.tolist())
    for task in ("caption", "regcap"):
        scenes = load_corpus("micro", 0, task, split).scenes
        assert {digit.source for scene in scenes for digit in scene.digits} <= own
    if split == "train":
        scenes = alignment_corpus(0, 50).scenes
        assert {digit.source for scene in scenes for digit in scene.digits} <= own


def test_boxes_hold_the_digit_and_lie_inside_the_picture() -> None:
    rng, sources = np.random.default_rng(1), load_sources("train")
    for _ in range(300):
        (digit,) = (scene := draw_scene(rng, sources, 1)).digits
        x1, y1, x2, y2 = digit.box
        assert 0 <= x1 < x2 <= SIZE
        assert 0 <= y1 < y2 <= SIZE
        outside = np.ones((SIZE, SIZE), bool)
        outside[y1:y2, x1:x2] = False
        # The background is below 40 with noise of sd 6; ink below 3/16 may stay outside the box.
        assert scene.image[outside].max() < 110
        assert scene.image[~outside].max() > 110
        assert digit.column == min(2, (x1 + x2) // 2 // 8)
        assert digit.row == min(2, (y1 + y2) // 2 // 8)


def test_digits_of_a_scene_have_own_cells_and_colors_in_reading_order() -> None:
    rng, sources = np.random.default_rng(2), load_sources("test")
    for _ in range(100):
        digits = draw_scene(rng, sources, 4).digits
        cells = [digit.cell for digit in digits]
        assert cells == sorted(set(cells))
        assert len({digit.color for digit in digits}) == 4
    assert set(COLORS) >= {digit.color for digit in digits}


def test_the_label_is_that_of_the_handwritten_digit() -> None:
    sources = load_sources("validation")
    for digit in draw_scene(np.random.default_rng(3), sources, 4).digits:
        assert digit.value == sources.labels[sources.indices.tolist().index(digit.source)]


@pytest.mark.parametrize("count", [0, 5])
def test_a_scene_has_one_to_four_digits(count: int) -> None:
    with pytest.raises(ValueError, match=r"count must be 1\.\.4"):
        draw_scene(np.random.default_rng(0), load_sources("train"), count)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of train, validation, test"):
        load_sources("dev")
    assert BLANK.digits == ()
