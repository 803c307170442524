"""The question answering sources: expected records by hand, and that no answer is lost or doubled."""

import json
from collections import Counter

import pytest

from cotbal.data.chartqa import prepare_chartqa
from cotbal.data.gqa import prepare_gqa
from cotbal.data.ocrvqa import prepare_ocrvqa
from cotbal.data.vqav2 import prepare_vqav2
from tests.data import publishers
from tests.data.reading import VQA, everything, inputs, pairs, rows, target, train

QUESTIONS = [
    (9000, 9, "What is on the table?", "pizza"),
    (25000, 25, "How many giraffes?", "2"),
    (9001, 9, "Is it day?", "yes"),
    (9002, 9, "What colour is the cup?", "red"),
]


@pytest.fixture
def vqav2(tmp_path):
    folder = tmp_path / "vqav2"
    publishers.vqav2(folder, "train2014", QUESTIONS)
    publishers.vqav2(folder, "val2014", [(42000 + n, 42 + n % 5, f"Val {n}?", f"v{n}") for n in range(30)])
    publishers.vqav2(folder, "test-dev2015", [(7000, 7, "Where?", "secret")])
    return folder


def test_questions_on_a_picture_are_one_shuffled_conversation_with_the_instruction_once(tmp_path, vqav2):
    (written,) = prepare_vqav2(vqav2, target(tmp_path / "out", "coco"), inputs(), validation=10)
    first, second = train(tmp_path / "out" / "VQAv2")
    assert second == {
        "id": "VQAv2-coco/train2014/COCO_train2014_000000000025.jpg",
        "image": "coco/train2014/COCO_train2014_000000000025.jpg",
        "conversations": [
            {"from": "human", "value": f"<image>\nHow many giraffes?{VQA}"},
            {"from": "gpt", "value": "2"},
        ],
        "task": "VQAv2",
    }
    assert first["image"] == "coco/train2014/COCO_train2014_000000000009.jpg"
    assert Counter(pairs(first)) == Counter((q, a) for _, image, q, a in QUESTIONS if image == 9)
    assert json.dumps(first).count("single word or phrase") == 1
    assert first["conversations"][0]["value"].startswith("<image>\n")
    assert first["conversations"][0]["value"].endswith(VQA)
    assert written["splits"]["train"]["records"] == 2
    assert written["splits"]["train"]["turns"] == 4


@pytest.mark.parametrize(
    ("change", "left_out"), [({"multiple_choice_answer": " "}, 1), ({"question_id": "x"}, 2)]
)
def test_a_question_whose_annotation_is_left_out_is_counted_once(tmp_path, vqav2, change, left_out):
    """Where the annotation tells which question it is of."""
    path = vqav2 / "v2_mscoco_train2014_annotations.json"
    content = json.loads(path.read_text())
    content["annotations"][1] |= change
    path.write_text(json.dumps(content))
    (written,) = prepare_vqav2(vqav2, target(tmp_path / "out"), inputs(skip_invalid=True))
    assert written["splits"]["train"]["turns"] == 3
    assert written["left_out"] == {"invalid": left_out}


def test_somebody_may_have_said_nothing_but_the_answer_is_never_empty(tmp_path, vqav2):
    path = vqav2 / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["answers"][9]["answer"] = " "
    path.write_text(json.dumps(content))
    prepare_vqav2(vqav2, target(tmp_path / "out"), inputs())
    assert all(
        row["people_answers"][8:] == ["maybe", ""] for row in rows(tmp_path / "out" / "VQAv2" / "val.jsonl")
    )
    content["annotations"][3]["multiple_choice_answer"] = " "
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"field 'multiple_choice_answer': expected a text that is not empty"
    ):
        prepare_vqav2(vqav2, target(tmp_path / "out"), inputs())


def test_held_out_questions_are_drawn_and_hold_what_scoring_needs(tmp_path, vqav2):
    prepare_vqav2(vqav2, target(tmp_path / "out", "coco"), inputs(), validation=10)
    found = rows(tmp_path / "out" / "VQAv2" / "val.jsonl")
    assert len({row["question_id"] for row in found}) == 10
    number = int(found[0]["answer"][1:])
    assert found[0] == {
        "question_id": str(42000 + number),
        "image": f"coco/val2014/COCO_val2014_{42 + number % 5:012d}.jpg",
        "text": f"Val {number}?{VQA}",
        "answer": f"v{number}",
        "people_answers": [f"v{number}"] * 8 + ["maybe"] * 2,
        "task": "VQAv2",
    }
    (asked,) = rows(tmp_path / "out" / "VQAv2" / "test.jsonl")
    image = "coco/test2015/COCO_test2015_000000000007.jpg"
    assert asked == {"question_id": "7000", "image": image, "text": f"Where?{VQA}", "task": "VQAv2"}


def test_smaller_draw_is_the_beginning_of_a_larger_one(tmp_path, vqav2):
    for size in (5, 12, 30, 100):
        prepare_vqav2(vqav2, target(tmp_path / str(size)), inputs(), validation=size)
    small, middle, whole, more = (
        rows(tmp_path / n / "VQAv2" / "val.jsonl") for n in ("5", "12", "30", "100")
    )
    assert middle[:5] == small
    assert whole[:12] == middle
    assert len(whole) == 30
    assert more == whole
    assert whole != sorted(whole, key=lambda row: int(row["question_id"]))


def test_order_of_the_questions_is_the_seeds_and_not_the_files(tmp_path):
    questions = [(id, 1, f"Q{id}?", f"a{id}") for id in range(40)]
    orders = []
    for name, seed, given in (("a", 0, questions), ("b", 0, questions[::-1]), ("c", 1, questions)):
        publishers.vqav2(tmp_path / name, "train2014", given)
        prepare_vqav2(tmp_path / name, target(tmp_path / f"out-{name}", seed=seed), inputs())
        orders.append(pairs(train(tmp_path / f"out-{name}" / "VQAv2")[0]))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != [(q, a) for _, _, q, a in questions]
    assert sorted(orders[0]) == sorted(orders[2])


def test_gqa_reads_questions_by_id(tmp_path):
    rows_in = [(f"0{n}", f"2370{n % 3}", f"Is {n} there?", ("yes", "no")[n % 2]) for n in range(7)]
    publishers.gqa(tmp_path / "gqa", "train", rows_in)
    publishers.gqa(tmp_path / "gqa", "val", [("v1", "1", "Who?", "man")])
    publishers.gqa(tmp_path / "gqa", "testdev", [("t1", "n161313", "What?", "dog")])
    prepare_gqa(tmp_path / "gqa", target(tmp_path / "out", "gqa/images"), inputs())
    records = train(tmp_path / "out" / "GQA")
    assert [record["image"] for record in records] == [f"gqa/images/2370{n}.jpg" for n in range(3)]
    for number, record in enumerate(records):
        wanted = Counter((q, a) for _, image, q, a in rows_in if image == f"2370{number}")
        assert Counter(pairs(record)) == wanted
    (row,) = rows(tmp_path / "out" / "GQA" / "test.jsonl")
    image = "gqa/images/n161313.jpg"
    assert row == {
        **{"question_id": "t1", "image": image, "text": f"What?{VQA}", "answer": "dog", "task": "GQA"},
    }


def test_chartqa_merges_human_and_augmented_questions(tmp_path):
    folder = tmp_path / "ChartQA Dataset"
    publishers.chartqa(
        folder, "train", [("a.png", "Max?", "14")], [("a.png", "Min?", "3"), ("b.png", "Sum?", "5")]
    )
    publishers.chartqa(folder, "val", [("c.png", "Mean?", "0.5")], [("c.png", "Mode?", "Yes")])
    prepare_chartqa(folder, target(tmp_path / "out", "chartqa"), inputs())
    first, second = train(tmp_path / "out" / "ChartQA")
    assert first["image"] == "chartqa/train/png/a.png"
    assert sorted(pairs(first)) == [("Max?", "14"), ("Min?", "3")]
    assert pairs(second) == [("Sum?", "5")]
    found = rows(tmp_path / "out" / "ChartQA" / "val.jsonl")
    assert sorted(row["question_id"] for row in found) == ["val-augmented-1", "val-human-1"]
    assert not (tmp_path / "out" / "ChartQA" / "test.jsonl").exists()


def test_ocrvqa_draws_books_and_keeps_each_whole(tmp_path):
    turns = [("Who wrote this book?", "A. Author"), ("Is this a comic?", "No")]
    books = {f"{n:04d}": (1, [(f"{q} {n}", a) for q, a in turns]) for n in range(40)}
    books |= {"v": (2, turns), "t": (3, turns)}
    path = publishers.ocrvqa(tmp_path / "dataset.json", books)
    prepare_ocrvqa(path, target(tmp_path / "out", "ocr"), inputs(), conversations=15, validation=1)
    records = train(tmp_path / "out" / "OCRVQA")
    assert len(records) == 15
    assert [record["image"] for record in records] != [f"ocr/{n:04d}.jpg" for n in range(15)]
    for record in records:
        number = record["image"][4:8]
        assert sorted(pairs(record)) == sorted(books[number][1])
    (val,) = rows(tmp_path / "out" / "OCRVQA" / "val.jsonl")
    assert val["image"] == "ocr/v.jpg"
    assert len(rows(tmp_path / "out" / "OCRVQA" / "test.jsonl")) == 2
    all_books = prepare_ocrvqa(path, target(tmp_path / "all", "ocr"), inputs(), ending=".png")
    assert all_books[0]["splits"]["train"] | {"sha256": ""} == {
        **{"file": "train.json", "records": 40, "turns": 80, "sha256": ""},
    }
    assert train(tmp_path / "all" / "OCRVQA")[0]["image"] == "ocr/0000.png"
    with pytest.raises(ValueError, match=r"--ending: expected .* with its point, such as \.jpg, got 'png'"):
        prepare_ocrvqa(path, target(tmp_path / "all", "ocr"), inputs(), ending="png")


def test_two_runs_give_the_same_bytes(tmp_path, vqav2):
    for name in ("a", "b"):
        prepare_vqav2(vqav2, target(tmp_path / name, "coco"), inputs(), validation=10)
    assert everything(tmp_path / "a") == everything(tmp_path / "b")
    assert set(everything(tmp_path / "a")) == {
        f"VQAv2/{n}" for n in ("train.json", "val.jsonl", "test.jsonl", "prepared.json")
    }
