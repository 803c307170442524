"""Every question has the right answer, told by another route than the code that asks it."""

import re
from collections.abc import Iterator

import numpy as np
import pytest

from cotbal.demo.questions import TASKS, Turn, align, format_box
from cotbal.demo.tokenizer import VOCABULARY, decode, encode
from cotbal.demo.world import BLANK, Scene, draw_scene, load_sources
from cotbal.metrics import parse_box

COUNTS = ["zero", "one", "two", "three", "four"]


def asked(task: str, scenes: int = 60) -> Iterator[tuple[Scene, list[Turn]]]:
    rng = np.random.default_rng(7)
    for index in range(scenes):
        kind = TASKS[task]
        count = max(kind.least_digits, 1 + index % 4)
        scene = draw_scene(rng, load_sources("train"), count) if kind.least_digits else BLANK
        yield scene, kind.ask(scene, rng)


def by_color(scene: Scene, color: str):
    return next(digit for digit in scene.digits if digit.color == color)


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_distinct_and_survive_the_tokenizer(task: str) -> None:
    for _, turns in asked(task):
        questions = [question for question, _ in turns]
        assert len(set(questions)) == len(questions) >= 1
        for text in (*questions, *(answer for _, answer in turns), TASKS[task].instruction):
            assert decode(encode(text)) == text


def test_caption_names_every_digit() -> None:
    for scene, ((_, answer),) in asked("caption"):
        head, body = answer.split(" : ")
        assert head.split()[0] == COUNTS[len(scene.digits)]
        assert head.endswith("digit" if len(scene.digits) == 1 else "digits")
        words = [part.split() for part in body.split(" , ")]
        assert [(w[1], w[2]) for w in words] == [(d.color, str(d.value)) for d in scene.digits]
        assert [" ".join(w[-2:]) for w in words] == [d.place for d in scene.digits]


def test_vqa_answers() -> None:
    kinds = set()
    for scene, turns in asked("vqa"):
        for question, answer in turns:
            if question == "how many digits are there ?":
                assert answer == COUNTS[len(scene.digits)]
            elif match := re.fullmatch(r"what digit is (\w+) \?", question):
                assert answer == str(by_color(scene, match[1]).value)
            else:
                match = re.fullmatch(r"what color is the (\d) \?", question)
                assert [d.color for d in scene.digits if str(d.value) == match[1]] == [answer]
            kinds.add(question.split()[1])
    assert kinds == {"many", "digit", "color"}


def test_rel_answers_follow_the_boxes_and_are_balanced() -> None:
    seen = {"yes": 0, "no": 0}
    for scene, turns in asked("rel"):
        for question, answer in turns:
            colors = re.findall(r"the (\w+) digit", question)
            first = by_color(scene, colors[0])
            if question.startswith("in which row"):
                assert answer == first.place.split()[0]
            elif question.startswith("in which column"):
                assert answer == first.place.split()[1]
            else:
                second = by_color(scene, colors[1])
                across, down = second.cell % 3 - first.cell % 3, second.cell // 3 - first.cell // 3
                holds = {"left": across > 0, "right": across < 0, "above": down > 0, "below": down < 0}
                relation = re.search(r"digit (left|right|above|below)", question)[1]
                assert answer == ("yes" if holds[relation] else "no")
                seen[answer] += 1
    assert seen["yes"] == seen["no"] > 50


def test_chart_answers_are_sums_and_extremes() -> None:
    for scene, turns in asked("chart"):
        values = sorted(digit.value for digit in scene.digits)
        expected = {"sum": sum(values), "largest": values[-1], "smallest": values[0]}
        assert {q.split()[3]: int(a) for q, a in turns} == expected


def test_ocr_reads_row_by_row() -> None:
    for scene, ((_, answer),) in asked("ocr"):
        by_cell = sorted(scene.digits, key=lambda d: (d.cell // 3, d.cell % 3))
        assert answer == " ".join(str(d.value) for d in by_cell)


def test_regions_and_boxes_are_each_others_inverse() -> None:
    for scene, turns in asked("regcap"):
        boxes = {format_box(d.box): f"the {d.color} {d.value} at {d.place}" for d in scene.digits}
        assert {question.removeprefix("region "): answer for question, answer in turns} == boxes
    for scene, turns in asked("bbox"):
        assert dict(turns) == {f"the {d.color} {d.value}": format_box(d.box) for d in scene.digits}
        for _, answer in turns:
            x1, y1, x2, y2 = parse_box(answer)
            assert 0 <= x1 < x2 <= 1
            assert 0 <= y1 < y2 <= 1


def test_format_box_has_two_decimals_of_the_picture() -> None:
    assert format_box((0, 6, 12, 24)) == "[ 0.00 0.25 0.50 1.00 ]"


def test_chat_is_right_arithmetic() -> None:
    kinds = set()
    for _, turns in asked("chat"):
        assert len(turns) == 3
        for question, answer in turns:
            numbers = [int(word) for word in question.split() if word.isdigit()]
            kind = question.split()[-3] if len(numbers) == 2 else "after"
            kinds.add(kind)
            expected = {"plus": sum(numbers), "minus": numbers[0] - numbers[-1], "after": numbers[0] + 1}
            assert int(answer) == expected[kind] >= 0
    assert kinds == {"plus", "minus", "after"}


def test_the_dense_description_can_be_said() -> None:
    rng = np.random.default_rng(8)
    for _ in range(50):
        for text in align(draw_scene(rng, load_sources("train"), 4), rng)[0]:
            assert decode(encode(text)) == text


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(ValueError, match="no word 'cat'"):
        encode("the red cat")
    # The model's embedding has a row for each; none is unknown or wasted on a duplicate.
    assert sorted(VOCABULARY.values()) == list(range(len(VOCABULARY)))
