import hashlib
from fractions import Fraction

import pytest

from cotbal.project.subsets import largest_chosen, sample_numbers, subset_size


def chosen(seed, task, count, size):
    number, limit = sample_numbers(seed, task), largest_chosen(seed, task, count, size)
    return [place for place in range(count) if number(place) <= limit]


@pytest.mark.parametrize(
    ("count", "ratio", "size"),
    [(1, "1/32", 1), (48, "1/32", 2), (47, "1/32", 1), (1000, "0.1", 100), (10_000_000, "1/32", 312_500)],
)
def test_size_is_the_share_rounded_half_up(count, ratio, size):
    assert subset_size(count, Fraction(ratio)) == size


@pytest.mark.parametrize("size", [1, 2, 31, 999, 1000])
def test_as_many_as_asked_for_and_those_of_the_smallest_hashes(size):
    # The rule once more, in other words.
    def first(place):
        return hashlib.sha256(f"3\nvqa\n{place}".encode()).digest()[:8]

    assert chosen(3, "vqa", 1000, size) == sorted(sorted(range(1000), key=first)[:size])


def test_smaller_subsets_lie_inside_larger_ones_and_other_seeds_and_tasks_choose_others():
    quarter, half = set(chosen(0, "vqa", 400, 100)), set(chosen(0, "vqa", 400, 200))
    assert quarter < half
    assert quarter != set(chosen(1, "vqa", 400, 100)) != set(chosen(1, "gqa", 400, 100))


def test_the_very_samples_on_any_machine():
    assert chosen(0, "VQAv2", 64, 2) == [10, 37]


def test_every_sample_is_as_likely():
    counts = [0] * 20
    for seed in range(1000):
        for place in chosen(seed, "t", 20, 5):
            counts[place] += 1
    # 250 expected with a standard deviation of 14.
    assert all(180 < count < 320 for count in counts)
