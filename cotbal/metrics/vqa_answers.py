"""How VQA's evaluation rewrites answers before it compares them."""

import re

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_A_NUMBER = re.compile(r"\d,\d")
_NO_DECIMAL_POINT = re.compile(r"\.(?!\d)")
_WORDS_FOR = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"zero": "0"} | {word: str(number) for number, word in enumerate(_WORDS_FOR)}
_ARTICLES = ("a", "an", "the")
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've
    mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
    they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
    y'all'd've y'all'll you'd you'd've you'll you're you've
"""
# Written with one apostrophe less.
_APOSTROPHES = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, letter in enumerate(word)
    if letter == "'"
}


def rewritten(answer: str) -> str:
    """Return an answer in lower case without punctuation and articles, small numbers as digits.

    A mark beside a space is dropped, as any is beside a comma within a number; elsewhere it becomes a space.
    Points stay before a digit. Contractions get an apostrophe that they lack.

    Example:
        >>> rewritten("The two dogs, dont they?")
        "2 dogs don't they"
    """
    answer = re.sub(r"[\n\t]", " ", answer).strip()
    text = answer
    for mark in _MARKS:
        dropped = f"{mark} " in answer or f" {mark}" in answer or _COMMA_IN_A_NUMBER.search(answer)
        text = text.replace(mark, "" if dropped else " ")
    words = [_NUMBERS.get(word, word) for word in _NO_DECIMAL_POINT.sub("", text).lower().split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)
