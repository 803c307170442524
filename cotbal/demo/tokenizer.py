"""A word-level tokenizer: every word that the digit world can say, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from cotbal.demo.questions import COUNT_WORDS
from cotbal.demo.world import COLORS, COLUMNS, MAX_DIGITS, ROWS, SIZE

PAD, END, IMAGE, USER, ASSISTANT = "<pad>", "</s>", "<image>", "USER:", "ASSISTANT:"
PAD_ID, END_ID, IMAGE_ID = 0, 1, 2
_SENTENCES = (
    "describe the image . list everything . read all digits in order . use a full sentence . "
    "answer with a single word . answer with digits only . describe each region . "
    "give the box of each phrase how many digits are there ? "
    "what digit is what color is the ? is the digit left of right of above below "
    "what is the sum of all digits ? the largest digit the smallest digit region [ ] , : a the at digit "
    "in which row is the digit ? in which column what is plus ? minus what comes after ? yes no"
)


def _vocabulary() -> dict[str, int]:
    numbers = [str(value) for value in range(9 * MAX_DIGITS + 1)]
    coordinates = [f"{value / SIZE:.2f}" for value in range(SIZE + 1)]
    words = [*_SENTENCES.split(), *COUNT_WORDS, *COLORS, *ROWS, *COLUMNS, *numbers, *coordinates]
    # dict.fromkeys keeps the first of each word, in order.
    unique = dict.fromkeys([PAD, END, IMAGE, USER, ASSISTANT, *words])
    return {word: index for index, word in enumerate(unique)}


VOCABULARY = _vocabulary()
_WORDS = tuple(VOCABULARY)


def encode(text: str) -> list[int]:
    """The ids of a text's words, which are separated by white space.

    Raises:
        ValueError: a word is not in the vocabulary.
    """
    words = text.split()
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise ValueError(f"the digit world has no word {unknown[0]!r} (in {text!r})")
    return [VOCABULARY[word] for word in words]


def decode(ids: Iterable[int]) -> str:
    """The text of ids up to the first end token, pad tokens left out."""
    words = []
    for index in ids:
        if index == END_ID:
            break
        if index != PAD_ID:
            words.append(_WORDS[index])
    return " ".join(words)
