"""How long a conversation is in LLaVA's training, and how much of it is trained on."""

from collections.abc import Sequence
from typing import NamedTuple

from cotbal.data.tokens import Counter

# LLaVA's template vicuna_v1: its beginning, then "USER: question ASSISTANT: answer</s>" for each turn.
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# Where LLaVA parts a conversation again to find the answers: in a text they end what it trains on.
MARKS = ("</s>", " ASSISTANT: ")
IMAGE = "<image>"
IMAGE_TOKENS = 576


class Length(NamedTuple):
    """A conversation's length, in tokens or in words.

    Attributes:
        positions: of the whole; with tokens as the model sees it, the picture's among them.
        valid: those that are trained on: the answers, and with tokens the end of each.
        kept: positions after truncation.
        kept_valid: of these, those that are trained on.
    """

    positions: int
    valid: int
    kept: int
    kept_valid: int


def in_tokens(
    turns: Sequence[tuple[str, str]],
    pictured: bool,
    counter: Counter,
    most: int,
    image_tokens: int = IMAGE_TOKENS,
) -> Length:
    """The length in LLaVA's template vicuna_v1, cut after `most` positions.

    A tokenizer of Llama's kind is assumed: it begins each text at a word's beginning. LLaVA masks all but an
    answer's tokens and its </s>.

    Args:
        turns: questions, with their `<image>`, and answers.
        pictured: whether `<image>` stands for a picture.
        counter: counts a text's tokens.
        most: LLaVA's model_max_length.
        image_tokens: positions that a picture becomes.
    """
    place, valid, kept_valid = 1, 0, 0
    for number, (question, answer) in enumerate(turns):
        start = f"{SYSTEM} USER: " if number == 0 else "USER: "
        if pictured and IMAGE in question:
            # LLaVA moves the picture to the beginning, and tokenizes what stands before and after it apart.
            rest = question.replace(IMAGE, "").strip()
            place += counter(start) + image_tokens + counter(f"\n{rest} ASSISTANT:")
        else:
            place += counter(f"{start}{question} ASSISTANT:")
        size = counter(answer) + 1
        valid += size
        kept_valid += min(size, max(0, most - place))
        place += size
    return Length(place, valid, min(place, most), kept_valid)


def in_words(turns: Sequence[tuple[str, str]]) -> Length:
    """The length in words, where there is no tokenizer; nothing is cut."""
    valid = len(" ".join([answer for _, answer in turns]).split())
    words = valid + len(" ".join([question for question, _ in turns]).replace(IMAGE, " ").split())
    return Length(words, valid, words, valid)
