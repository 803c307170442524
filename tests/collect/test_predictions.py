import json

import pytest

from cotbal.metrics import acc_at_iou, box_iou, cider, exact_match
from tests.collect.publishers import write_json, write_jsonl, write_table
from tests.collect.reading import read

TEXTS = {"1": ("A red car.", "a red car"), "2": ("two dogs", "two cats"), "3": ("12.3", "12")}
BOXES = {"1": ("[0.0, 0.0, 0.6, 1.0]", [0, 0, 1, 1]), "2": ("none", [0, 0, 0.5, 0.5])}


def files(folder, pairs):
    write_jsonl(
        folder / "run" / "p.jsonl", [{"id": key, "answer": given} for key, (given, _) in pairs.items()]
    )
    truth = [{"id": key, "answer": wanted} for key, (_, wanted) in reversed(pairs.items())]
    return f"format=predictions from=p.jsonl truth={write_json(folder / 'truth.json', truth)}"


@pytest.mark.parametrize(
    ("options", "pairs", "metric"),
    [
        ("metric=EM", TEXTS, lambda p, r: exact_match(p, r)),
        ("metric=EM lower=no", TEXTS, lambda p, r: exact_match(p, r, lower=False)),
        (
            "metric=EM full_stop=no strip=no",
            TEXTS,
            lambda p, r: exact_match(p, r, full_stop=False, strip=False),
        ),
        ("metric=EM rule=relaxed", TEXTS, lambda p, r: exact_match(p, r, rule="relaxed")),
        (
            "metric=EM rule=relaxed tolerance=0.02",
            TEXTS,
            lambda p, r: exact_match(p, r, rule="relaxed", tolerance=0.02),
        ),
        ("metric=CIDEr", TEXTS, cider),
        ("metric=Acc@IoU", BOXES, acc_at_iou),
        ("metric=Acc@IoU threshold=0.7", BOXES, lambda p, r: acc_at_iou(p, r, threshold=0.7)),
        ("metric=mIoU", BOXES, box_iou),
    ],
)
def test_the_items_are_those_of_the_metric_with_the_options_given(tmp_path, options, pairs, metric):
    found = read(tmp_path / "run", f"{files(tmp_path, pairs)} {options}")
    given, wanted = zip(*pairs.values(), strict=True)
    # CIDEr sums over the corpus, whose order is the truth's here.
    assert [found.items[key] for key in pairs] == pytest.approx(metric(list(given), list(wanted)), rel=1e-12)
    for option in options.split()[1:]:
        name, _, value = option.partition("=")
        assert str(found.rules[name]) == {"yes": "True", "no": "False"}.get(value, value)
    assert found.higher_is_better


def test_the_options_change_the_score(tmp_path):
    text = f"{files(tmp_path, TEXTS)} metric=EM"
    sums = {
        sum(read(tmp_path / "run", text + option).items.values())
        for option in ("", " lower=no", " rule=relaxed")
    }
    assert sums == {1.0, 0.0, 2.0}


@pytest.mark.parametrize(
    ("content", "option", "right"),
    [
        # VQAv2's annotations, the paper's rule and the official one.
        (
            {
                "annotations": [
                    {
                        "question_id": 1,
                        "image_id": 5,
                        "multiple_choice_answer": "red",
                        "answers": [{"answer": "red"}],
                    }
                ]
            },
            "truth-answer=multiple_choice_answer",
            1.0,
        ),
        (
            {
                "annotations": [
                    {
                        "question_id": 1,
                        "image_id": 5,
                        "multiple_choice_answer": "x",
                        "answers": [
                            {"answer": a, "answer_id": n} for n, a in enumerate(["red"] * 2 + ["x"] * 8)
                        ],
                    }
                ]
            },
            "truth-answer=answers rule=soft",
            (2 * 1 / 3 + 8 * 2 / 3) / 10,
        ),
        # POPE's questions.
        ({"data": [{"question_id": 1, "image": "5", "text": "Is there a car?", "label": "red"}]}, "", 1.0),
        # GQA's questions.
        ({"1": {"imageId": "5", "question": "?", "answer": "red", "fullAnswer": "It is red."}}, "", 1.0),
        # LLaVA's records.
        (
            [
                {
                    "id": 1,
                    "image": "5",
                    "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "red"}],
                }
            ],
            "",
            1.0,
        ),
        # A table of the user's.
        (
            [{"key": 1, "img": "5", "right": ["blue", "red"]}],
            "truth-id=key truth-answer=right image=img",
            1.0,
        ),
    ],
    ids=["VQAv2", "VQAv2 soft", "POPE", "GQA", "LLaVA", "own names"],
)
def test_the_right_answers_are_read_from_each_publishers_file(tmp_path, content, option, right):
    write_jsonl(tmp_path / "p.jsonl", [{"question_id": 1, "text": "Red."}])
    truth = write_json(tmp_path / "truth.json", content)
    found = read(tmp_path, f"format=predictions from=p.jsonl metric=EM truth={truth} {option}")
    assert found.items == {"1": pytest.approx(right)}
    assert found.images == {"1": "5"}


def test_cocos_captions_are_a_row_each(tmp_path):
    """Those of one image are its references; under EM an id that stands twice is a mistake."""
    captions = {1: ["a red car", "the car is red"], 2: ["two dogs"], 3: ["a cat sits", "a cat"]}
    rows = [
        {"image_id": image, "id": 10 * image + n, "caption": text}
        for n in range(2)
        for image, texts in captions.items()
        for text in texts[n : n + 1]
    ]
    content = {"info": {}, "licenses": [], "images": [{"id": 1}], "annotations": rows}
    truth = write_json(tmp_path / "captions_val2014.json", content)
    said = {1: "a red car", 2: "two cats", 3: "a cat"}
    write_json(tmp_path / "p.json", [{"image_id": key, "caption": text} for key, text in said.items()])
    text = f"format=predictions from=p.json id=image_id answer=caption truth={truth} truth-id=image_id"
    found = read(tmp_path, f"{text} metric=CIDEr")
    assert list(found.items.values()) == cider(list(said.values()), list(captions.values()))
    assert found.images == {"1": "1", "2": "2", "3": "3"}
    with pytest.raises(ValueError, match="record 4, field 'image_id': id '1' stands twice"):
        read(tmp_path, f"{text} metric=EM")


@pytest.mark.parametrize("cell", ["['red', 'Red']", '["red"]'])
def test_a_list_that_a_table_holds_as_text_is_refused(tmp_path, cell):
    """As VLMEvalKit's TextVQA_VAL.tsv and pandas write several answers: no answer would be equal to it."""
    write_jsonl(tmp_path / "p.jsonl", [{"id": 1, "answer": "red"}])
    truth = write_table(tmp_path / "truth.tsv", [{"id": 1, "answer": cell}])
    with pytest.raises(ValueError, match=r"truth.tsv: line 2, field 'answer': .*; write the list in JSON"):
        read(tmp_path, f"format=predictions from=p.jsonl metric=EM truth={truth}")
    # In JSON it is a text that a model is to say.
    truth = write_json(tmp_path / "truth.json", [{"id": 1, "answer": cell}])
    assert read(tmp_path, f"format=predictions from=p.jsonl metric=EM truth={truth}").items == {"1": 0.0}


@pytest.mark.parametrize("bare", [{}, {"image": None}, {"image": ""}, {"image": []}])
def test_the_first_item_may_have_no_image(tmp_path, bare):
    write_jsonl(tmp_path / "p.jsonl", [{"id": key, "answer": "a"} for key in (1, 2)])
    truth = write_json(
        tmp_path / "t.json", [{"id": 1, "answer": "a"} | bare, {"id": 2, "answer": "a", "image": "x"}]
    )
    assert read(tmp_path, f"format=predictions from=p.jsonl metric=EM truth={truth}").images == {"2": "x"}


def test_items_on_the_same_images_are_on_one(tmp_path):
    """As two pictures that are compared; the order tells which is which."""
    pairs = [["x", "y"], ["x", "y"], ["y", "x"], "x"]
    write_jsonl(tmp_path / "p.jsonl", [{"id": key, "answer": "a"} for key in range(4)])
    rows = [{"id": key, "answer": "a", "image": image} for key, image in enumerate(pairs)]
    truth = write_json(tmp_path / "t.json", rows)
    images = read(tmp_path, f"format=predictions from=p.jsonl metric=EM truth={truth}").images
    assert images["0"] == images["1"]
    assert len(set(images.values())) == 3
    rows[0]["image"] = ["x", 3]
    truth = write_json(tmp_path / "t.json", rows)
    with pytest.raises(ValueError, match=r"field 'image': expected an id, got \['x', 3\]"):
        read(tmp_path, f"format=predictions from=p.jsonl metric=EM truth={truth}")


def test_an_item_without_an_image_has_none(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [{"id": key, "answer": "a"} for key in (1, 2)])
    truth = write_json(
        tmp_path / "t.json", [{"id": 1, "image": "x", "answer": "a"}, {"id": 2, "answer": "a"}]
    )
    text = f"format=predictions from=p.jsonl metric=EM truth={truth}"
    assert read(tmp_path, text).images == {"1": "x"}
    with pytest.raises(ValueError, match=r"t.json: record 2, field 'image': expected an id, got nothing"):
        read(tmp_path, f"{text} image=image")


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


GOOD = [{"id": 1, "answer": "a"}, {"id": 2, "answer": "b"}]


@pytest.mark.parametrize(
    ("answers", "truth", "options", "words"),
    [
        (lines(*GOOD)[:-9], lines(*GOOD), "", r"p.jsonl: line 2: expected JSON, is it whole\?"),
        (lines(*GOOD[:1]), lines(*GOOD), "", r"p.jsonl: ids differ from those of .*t.jsonl: 1 missing \(2\)"),
        (lines(*GOOD, {"id": 3, "answer": ""}), lines(*GOOD), "", r"1 unknown \(3\)"),
        (lines(*GOOD, GOOD[0]), lines(*GOOD), "", r"p.jsonl: line 3, field 'id': id '1' stands twice"),
        (lines(*GOOD), lines(*GOOD, GOOD[0]), "", r"t.jsonl: line 3, field 'id': id '1' stands twice"),
        (
            lines(GOOD[0], {"id": 2, "answer": None}),
            lines(*GOOD),
            "",
            r"p.jsonl: line 2, field 'answer': expected a text, got None",
        ),
        (
            lines(GOOD[0], {"id": 2}),
            lines(*GOOD),
            "",
            r"p.jsonl: line 2, field 'answer': expected a text, got nothing",
        ),
        (
            lines({"id": 1, "answer": "a", "text": "q"}),
            lines(*GOOD),
            "",
            r"got answer and text; say which by answer=",
        ),
        (
            lines({"id": 1, "reply": "a"}),
            lines(*GOOD),
            "",
            r"got none of them among id, reply; name it by answer=",
        ),
        *(
            (
                lines(*GOOD),
                lines({"id": 1, "answer": wrong}),
                "",
                r"t.jsonl: line 1, field 'answer': expected a text, a list of texts or a box",
            )
            for wrong in (3, ["a", 3], [1, 2, 3], [1, 2, 3, "4"], [])
        ),
        (lines(*GOOD), lines(*GOOD), "rule=fuzzy", r"EM: rule: expected one of strict"),
        (
            lines(*GOOD),
            lines(*GOOD),
            "rule=soft",
            r"EM: references: the rule 'soft' expected the answers of several",
        ),
        (lines(*GOOD), lines(*GOOD), "lower=1", r"lower: expected yes or no, got '1'"),
        (lines(*GOOD), lines(*GOOD), "tolerance=x", r"tolerance: expected a number, got 'x'"),
        (lines(*GOOD), lines(*GOOD), "tolerance=0.1", r"expected rule=relaxed beside it, got rule=strict"),
        (lines(*GOOD), lines(*GOOD), "threshold=0.5", r"metric EM has no matching rule 'threshold'"),
        (lines(*GOOD), lines(*GOOD), "parts=0", r"parts: expected a number of files, got '0'"),
    ],
)
def test_what_is_wrong_is_told_with_file_record_and_field(tmp_path, answers, truth, options, words):
    (tmp_path / "p.jsonl").write_text(answers)
    (tmp_path / "t.jsonl").write_text(truth)
    with pytest.raises(ValueError, match=words):
        read(tmp_path, f"format=predictions from=p.jsonl metric=EM truth={tmp_path / 't.jsonl'} {options}")


@pytest.mark.parametrize(
    ("metric", "words"), [("IoU", "the paper's IoU is Acc@IoU"), ("BLEU", "expected one of EM, CIDEr")]
)
def test_a_metric_that_is_none_of_cotbals_is_refused(tmp_path, metric, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, f"format=predictions from=p.jsonl metric={metric} truth=t")


def test_the_right_answers_are_asked_for(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", GOOD)
    with pytest.raises(ValueError, match=r"format 'predictions' needs the option truth="):
        read(tmp_path, "format=predictions from=p.jsonl metric=EM")
