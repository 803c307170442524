"""Which samples of a task are in its subset: the same on every machine, a smaller subset inside a larger one.

Each sample has a number, the first 8 bytes of the SHA-256 of seed, task and the sample's place, read as a
big-endian integer. The subset of k samples are the k with the smallest numbers.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from fractions import Fraction

# Bits of a number that are counted first; the memory is that of so many counters and one bucket's numbers.
BUCKET_BITS = 16
PLACE_BITS = 40


def subset_size(count: int, ratio: Fraction) -> int:
    """The number of samples in a subset: the share rounded half up, at least 1."""
    return max(1, (2 * count * ratio.numerator + ratio.denominator) // (2 * ratio.denominator))


def sample_numbers(seed: int, task: str) -> Callable[[int], int]:
    """The number of each sample by its place 0, 1, ...; no two are equal."""
    start = hashlib.sha256(f"{seed}\n{task}\n".encode())

    def number(place: int) -> int:
        digest = start.copy()
        digest.update(b"%d" % place)
        # The place below it decides among equals.
        return int.from_bytes(digest.digest()[:8], "big") << PLACE_BITS | place

    return number


def largest_chosen(seed: int, task: str, count: int, chosen: int) -> int:
    """The largest number of the `chosen` smallest; memory does not grow with `count` but by count / 65536.

    Args:
        seed: the seed.
        task: the task's name.
        count: its samples.
        chosen: how many of them, 1..count.
    """
    number = sample_numbers(seed, task)
    shift = 64 + PLACE_BITS - BUCKET_BITS
    sizes = array("Q", bytes(8 << BUCKET_BITS))
    for place in range(count):
        sizes[number(place) >> shift] += 1
    left, bucket = chosen, 0
    while left > sizes[bucket]:
        left -= sizes[bucket]
        bucket += 1
    inside = sorted(n for n in map(number, range(count)) if n >> shift == bucket)
    return inside[left - 1]
