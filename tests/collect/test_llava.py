import pytest

from cotbal.collect.align import align
from cotbal.collect.source import parse_source
from tests.collect.publishers import llava, write_json, write_jsonl
from tests.collect.reading import ITEMS, read


def test_answers_of_several_gpus(tmp_path):
    found = read(tmp_path, llava(tmp_path, ITEMS))
    assert found.items == {str(item.id): item.right for item in ITEMS}
    assert found.images == {str(item.id): item.image for item in ITEMS}
    (tmp_path / "2_1.jsonl").unlink()
    with pytest.raises(ValueError, match="expected 2 files, got 1"):
        read(tmp_path, llava(tmp_path, ITEMS).replace("2_", "2_[0]"))


def test_answers_to_mmbenchs_rounds_are_refused(tmp_path):
    text = llava(tmp_path, [ITEMS[0], ITEMS[0]])
    with pytest.raises(ValueError, match="id '7' stands twice"):
        read(tmp_path, text)


def analysis(question, text):
    return {
        "question_id": question,
        "parsed_ans": text,
        "ground_truth": "A",
        "question": "?",
        "pred": text,
        "is_multimodal": True,
    }


def test_science_qa(tmp_path):
    write_json(
        tmp_path / "out.jsonl",
        {"correct": [analysis("4", "A")], "incorrect": [analysis("11", "B"), analysis("5", "FAILED")]},
    )
    found = read(tmp_path, "format=llava from=out.jsonl metric=acc")
    assert (found.items, found.score) == ({"4": 1.0, "11": 0.0, "5": 0.0}, None)
    assert found.higher_is_better
    write_json(
        tmp_path / "result.json",
        {"acc": 100 / 3, "correct": 1, "count": 3, "results": {"4": 0}, "outputs": {"4": "A"}},
    )
    found = read(tmp_path, "format=llava from=result.json metric=acc")
    assert (found.items, found.score, found.number, found.higher_is_better) == (None, 100 / 3, 3, True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"correct": [analysis("4", "A")]}, "expected the lists 'correct' and 'incorrect'"),
        ({"correct": [], "incorrect": []}, "expected at least one answer"),
        (
            {"correct": [analysis("4", "A")], "incorrect": [analysis("4", "B")]},
            "incorrect 1, field 'question_id': id '4' stands twice",
        ),
        ({"acc": None}, "the object, field 'acc': expected a number"),
    ],
)
def test_a_broken_science_qa_file_is_told(tmp_path, content, words):
    write_json(tmp_path / "out.jsonl", content)
    with pytest.raises(ValueError, match=words):
        read(tmp_path, "format=llava from=out.jsonl metric=acc")


def review(question, *scores):
    return {
        "id": question,
        "question_id": question,
        "answer1_id": question,
        "answer2_id": "x",
        "category": "llava_bench_conv",
        "content": "8 6\nfine",
        "tuple": list(scores),
    }


def test_reviews(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [review(0, 8, 6), review(1, 10, 3.0)])
    found = read(tmp_path, "format=llava from=r.jsonl metric=review")
    assert (found.items, found.higher_is_better) == ({"0": 6.0, "1": 3.0}, True)
    relative = read(tmp_path, "format=llava from=r.jsonl metric=relative")
    assert (relative.items, relative.score, relative.higher_is_better) == (None, 50.0, True)


def test_runs_of_other_numbers_of_reviews_are_refused(tmp_path):
    """A part was lost, or a review that has not ended: the score alone does not show it."""
    rows = [review(0, 8, 6), review(1, 10, 3.0), review(2, 10, 9)]
    for run, told in {"mini": rows, "vqa": rows[:2]}.items():
        write_jsonl(tmp_path / run / "r.jsonl", told)
    source = parse_source("vqa: format=llava from=r.jsonl metric=relative")
    found = {
        run: read(tmp_path / run, "format=llava from=r.jsonl metric=relative") for run in ("mini", "vqa")
    }
    with pytest.raises(ValueError, match=r"got 3 items in run 'mini' \(.*\) and 2 in 'vqa'"):
        align(source, found)


@pytest.mark.parametrize(
    ("rows", "metric", "words"),
    [
        (
            [review(0, 8, 6), review(1, -1, -1)],
            "review",
            r"r.jsonl: line 2, field 'tuple': expected two scores >= 0",
        ),
        ([review(0, 8)], "review", "expected two scores"),
        ([review(0, 0, 5)], "relative", "the reference's scores are all 0"),
        (
            [review(0, 8, 6)],
            "gpt4",
            "metric: expected one of EM, CIDEr, Acc@IoU, mIoU, acc, review, relative",
        ),
    ],
)
def test_a_broken_review_is_told(tmp_path, rows, metric, words):
    write_jsonl(tmp_path / "r.jsonl", rows)
    with pytest.raises(ValueError, match=words):
        read(tmp_path, f"format=llava from=r.jsonl metric={metric}")
