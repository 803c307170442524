"""How many tokens a text has, and what of a conversation fits."""

from collections.abc import Callable
from pathlib import Path

MOST_TOKENS = 2048
# For the role and the separator of each message, as in Vicuna's preparation; its tokenizer also begins each.
MESSAGE = 6

Counter = Callable[[str], int]
Pairs = list[tuple[str, str]]


def load_counter(tokenizer: str) -> Counter:
    """A function that counts a text's tokens, special ones not.

    Args:
        tokenizer: a tokenizer.json, the folder of one, or a name that transformers knows.

    Raises:
        ValueError: there is none.
    """
    path = Path(tokenizer)
    path = path / "tokenizer.json" if path.is_dir() else path
    if path.is_file() and path.suffix == ".json":
        from tokenizers import Tokenizer

        try:
            fast = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ValueError(f"--tokenizer: expected a tokenizer in {path}: {error}") from error
        # What a call with truncation or padding has left in the file.
        fast.no_truncation()
        fast.no_padding()
        return lambda text: len(fast.encode(text, add_special_tokens=False).ids)
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(tokenizer)
    except (ImportError, OSError, ValueError) as error:
        # What transformers says of a missing package may name another one.
        raise ValueError(
            f"--tokenizer: expected a tokenizer.json, its folder or a model's name: {error}; "
            "a tokenizer.model, as Vicuna's, needs the packages sentencepiece and protobuf"
        ) from error
    return lambda text: len(slow(text, add_special_tokens=False, verbose=False)["input_ids"])


def fitting(found: Pairs, counter: Counter, most: int) -> Pairs:
    """The first questions and answers that have at most `most` tokens together.

    A conversation is cut after an answer; where not even the first one fits, that answer is cut.

    Args:
        found: questions with their answers.
        counter: counts the tokens of a text.
        most: of them all, with `MESSAGE` for each message.
    """
    kept: Pairs = []
    left = most
    for question, answer in found:
        left -= counter(question) + 2 * MESSAGE
        size = counter(answer) if left > 0 else 0
        if left <= 0 or size > left:
            break
        left -= size
        kept.append((question, answer))
    if kept or not found or left <= 0:
        return kept
    question, answer = found[0]
    beginning = _beginning(answer, counter, left)
    return [(question, beginning)] if beginning else []


def _beginning(text: str, counter: Counter, most: int) -> str:
    """The longest beginning found by halving that has at most `most` tokens."""
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if counter(text[:middle].rstrip()) <= most:
            fits = middle
        else:
            too_long = middle
    return text[:fits].rstrip()
