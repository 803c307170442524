"""Every task's held-out questions, as `cotbal prepare` writes them, with a model's answers."""

import json

import pytest

from cotbal.collect import collect, parse_source
from cotbal.collect.one_model import score_file, task_of, write_scores, write_upload
from cotbal.data.mix import find_prepared, write_mix
from cotbal.data.table1 import TABLE
from cotbal.metrics import acc_at_iou, cider, exact_match
from cotbal.project.job import read_score
from tests.data import prepared
from tests.data.reading import inputs, rows

# EM for question answering, CIDEr for captions, IoU (above one half) for grounding.
METRICS = {
    **dict.fromkeys(("VQAv2", "GQA", "ChartQA", "OCRVQA"), ("EM", exact_match)),
    **dict.fromkeys(("ShareGPT4V", "RefCOCO-caption"), ("CIDEr", cider)),
    "RefCOCO-bbox": ("Acc@IoU", acc_at_iou),
}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """The paper's visual tasks, prepared from their publishers' files and mixed."""
    folder = tmp_path_factory.mktemp("prepared")
    prepared.everything(folder / "sources", folder / "data")
    write_mix(find_prepared(folder / "data"), folder / "mixture", inputs())
    return folder / "mixture"


def answer(path, questions, wrong=lambda place: place % 3 == 0):
    """A file of predictions, in another order; every third is wrong."""
    lines = []
    for place, question in enumerate(questions):
        right = question.get("answer", "unknown")
        right = right[-1] if isinstance(right, list) else right
        given = "[0.0, 0.0, 0.01, 0.01]" if wrong(place) else right
        lines.append(json.dumps({"question_id": question["question_id"], "text": given}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(reversed(lines)) + "\n")
    return path


def held_out(mixture):
    return {
        path.relative_to(mixture).as_posix(): rows(path)
        for split in ("validation", "test")
        for path in sorted((mixture / split).iterdir())
    }


def test_every_visual_task_is_there(mixture):
    tasks = {questions[0]["task"] for name, questions in held_out(mixture).items() if "validation" in name}
    assert tasks == set(TABLE) - {"ShareGPT"} == set(METRICS)
    tests = {name.removeprefix("test/") for name in held_out(mixture) if name.startswith("test/")}
    sets = {
        f"RefCOCO-{kind}_Ref{which}.jsonl"
        for kind in ("caption", "bbox")
        for which in ("-test", "-testB", "g-test")
    }
    assert tests == sets | {f"{task}.jsonl" for task in tasks if "RefCOCO" not in task}


def test_answers_are_scored_by_the_metric_of_their_task(mixture, tmp_path):
    for name, questions in held_out(mixture).items():
        if name == "test/VQAv2.jsonl":
            continue
        predictions = answer(tmp_path / "p.jsonl", questions)
        scored = score_file(mixture / name, predictions)
        given = {row["question_id"]: row["text"] for row in rows(predictions)}
        texts = [given[question["question_id"]] for question in questions]
        name_of_metric, metric = METRICS[scored.task]
        assert scored.metric == name_of_metric
        assert scored.items == metric(texts, [question["answer"] for question in questions])
        assert scored.score == pytest.approx(sum(scored.items) / len(questions))
        assert scored.items[1] > scored.items[0] == 0, name


def test_collect_reads_the_same_files_and_scores_them_alike(mixture, tmp_path):
    """One path: the questions as `truth`, the metric by the task's name, RefCOCO's sets as one mean."""
    sources, tasks = [], ["VQAv2", "GQA", "RefCOCO-caption"]
    for place, run in enumerate(("mini", *tasks)):
        for name, questions in held_out(mixture).items():
            answer(tmp_path / run / name, questions, lambda n, place=place: n % (place + 2) == 0)
    for task in tasks:
        kind = "test" if "RefCOCO" in task else "validation"
        files = [path.relative_to(mixture) for path in sorted((mixture / kind).glob(f"{task}*"))]
        sources += [parse_source(f"{task}: format=predictions from={f} truth={mixture / f}") for f in files]
    collected = collect({run: tmp_path / run for run in ("mini", *tasks)}, sources)
    for run, row in zip(("mini", *tasks), (collected.scores.mini, *collected.scores.probes), strict=True):
        for place, task in enumerate(tasks):
            names = [source.name for source in sources if source.task == task]
            scores = [score_file(mixture / n, tmp_path / run / n).score for n in names]
            assert row[place].item() == pytest.approx(sum(scores) / len(names)), (run, task)
    assert [each["metric"] for each in collected.provenance["tasks"]["RefCOCO-caption"]] == ["CIDEr"] * 3


def test_the_scores_file_is_what_an_evaluation_has_to_leave(mixture, tmp_path):
    predictions = answer(tmp_path / "p.jsonl", rows(mixture / "validation" / "GQA.jsonl"))
    scored = score_file(mixture / "validation" / "GQA.jsonl", predictions)
    write_scores(tmp_path / "scores.json", scored)
    pictures = [row["image"] for row in rows(mixture / "validation" / "GQA.jsonl")]
    assert scored.clusters == [pictures.index(picture) for picture in pictures]
    expected = {"score": scored.score, "items": scored.items, "clusters": scored.clusters}
    assert read_score(tmp_path / "scores.json") == expected
    content = json.loads((tmp_path / "scores.json").read_text())
    assert (content["task"], content["metric"], content["rules"]["rule"]) == ("GQA", "EM", "strict")


def test_a_rule_and_a_metric_of_ones_own(mixture, tmp_path):
    questions = mixture / "validation" / "VQAv2.jsonl"
    predictions = answer(tmp_path / "p.jsonl", [row | {"answer": "maybe"} for row in rows(questions)])
    assert score_file(questions, predictions).score == 0
    # Two of ten people said so.
    soft = score_file(questions, predictions, options={"rule": "soft", "truth-answer": "people_answers"})
    assert max(soft.items) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    boxes = mixture / "validation" / "RefCOCO-bbox.jsonl"
    assert score_file(boxes, answer(tmp_path / "b.jsonl", rows(boxes)), metric="mIoU").metric == "mIoU"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[1:], "p.jsonl: ids differ from those of .*GQA.jsonl: 1 missing"),
        (lambda lines: [*lines, lines[0]], "p.jsonl: line .*, field 'question_id': id .* stands twice"),
        (lambda lines: [*lines, '{"question_id": "x", "text": ""}'], r"1 unknown \(x\)"),
        (lambda lines: [*lines[:-1], lines[-1][:-3]], "expected JSON, is it whole"),
    ],
)
def test_an_answer_too_few_or_too_many_is_an_error(mixture, tmp_path, change, words):
    questions = mixture / "validation" / "GQA.jsonl"
    predictions = answer(tmp_path / "p.jsonl", rows(questions))
    predictions.write_text("\n".join(change(predictions.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=words):
        score_file(questions, predictions)


def test_a_task_whose_metric_nobody_knows(tmp_path):
    questions = tmp_path / "q.jsonl"
    lines = [{"question_id": 1, "text": "?", "answer": "a", "task": "receipts"}]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    predictions = answer(tmp_path / "p.jsonl", lines, lambda place: False)
    with pytest.raises(ValueError, match=r"task 'receipts': expected --metric with one of EM, CIDEr"):
        score_file(questions, predictions)
    assert score_file(questions, predictions, metric="EM").score == 1
    questions.write_text(questions.read_text() + json.dumps(lines[0] | {"question_id": 2, "task": "x"}))
    with pytest.raises(
        ValueError, match=r"line 2, field 'task': expected 'receipts', as in the first, got 'x'"
    ):
        task_of(questions)
    for nothing in ({}, {"task": None}):
        questions.write_text(json.dumps({"question_id": 1, "text": "?", "answer": "a"} | nothing))
        told = r"expected a task in each question, got none; name it by --task"
        with pytest.raises(ValueError, match=told):
            score_file(questions, predictions)
        assert score_file(questions, predictions, metric="EM").score == 1
    assert score_file(questions, predictions, task="VQAv2").metric == "EM"


def test_test_dev_has_no_score_but_an_upload_file(mixture, tmp_path):
    questions = mixture / "test" / "VQAv2.jsonl"
    asked = rows(questions)
    predictions = answer(tmp_path / "p.jsonl", [row | {"answer": " Red."} for row in asked])
    with pytest.raises(ValueError, match=r"VQAv2.jsonl: line 1, field 'answer': .* not public: .* --upload"):
        score_file(questions, predictions)
    assert write_upload(tmp_path / "u.json", questions, predictions) == (len(asked), 0)
    written = json.loads((tmp_path / "u.json").read_text())
    assert [row["question_id"] for row in written] == [int(row["question_id"]) for row in asked]
    assert {row["answer"] for row in written} == {"red", "[0.0, 0.0, 0.01, 0.01]"}
    assert all(set(row) == {"question_id", "answer"} for row in written)


def test_the_upload_file_answers_all_test_questions_once(mixture, tmp_path):
    questions = mixture / "test" / "VQAv2.jsonl"
    asked = [int(row["question_id"]) for row in rows(questions)]
    predictions = answer(tmp_path / "p.jsonl", rows(questions))
    everything = [{"image_id": 1, "question": "?", "question_id": id} for id in (*asked, 991, 992)]
    fill = tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json"
    fill.write_text(json.dumps({"info": {}, "data_type": "mscoco", "license": {}, "questions": everything}))
    assert write_upload(tmp_path / "u.json", questions, predictions, fill) == (len(asked), 2)
    written = {row["question_id"]: row["answer"] for row in json.loads((tmp_path / "u.json").read_text())}
    assert list(written) == [*asked, 991, 992]
    assert (written[991], written[992]) == ("", "")
    fill.write_text(json.dumps({"questions": everything[1:]}))
    with pytest.raises(ValueError, match=rf"got none for {asked[0]}"):
        write_upload(tmp_path / "u.json", questions, predictions, fill)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[1:], "1 missing"),
        (lambda lines: [*lines, lines[0]], "stands twice"),
        (lambda lines: [*lines, '{"question_id": 5, "text": ""}'], "1 unknown"),
    ],
)
def test_an_upload_without_one_answer_each_is_not_written(mixture, tmp_path, change, words):
    questions = mixture / "test" / "VQAv2.jsonl"
    predictions = answer(tmp_path / "p.jsonl", rows(questions))
    predictions.write_text("\n".join(change(predictions.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=words):
        write_upload(tmp_path / "u.json", questions, predictions)
    assert not (tmp_path / "u.json").exists()


def test_an_upload_is_vqav2s_alone(mixture, tmp_path):
    questions = mixture / "test" / "GQA.jsonl"
    predictions = answer(tmp_path / "p.jsonl", rows(questions))
    with pytest.raises(ValueError, match="expected questions of VQAv2, whose server it is, got 'GQA'"):
        write_upload(tmp_path / "u.json", questions, predictions)


def test_an_upload_has_ids_that_are_numbers(tmp_path):
    questions, given = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    questions.write_text(json.dumps({"question_id": "q1", "image": "a.jpg", "text": "?", "task": "VQAv2"}))
    given.write_text(json.dumps({"question_id": "q1", "text": "yes"}))
    with pytest.raises(ValueError, match="'question_id': expected a whole number, as VQAv2's are, got 'q1'"):
        write_upload(tmp_path / "upload.json", questions, given)
    assert not (tmp_path / "upload.json").exists()


def test_items_without_pictures_have_no_clusters(tmp_path):
    questions, given = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    asked = [{"question_id": n, "text": "?", "answer": "yes", "task": "GQA"} for n in range(3)]
    questions.write_text("\n".join(map(json.dumps, asked)))
    given.write_text("\n".join(json.dumps({"question_id": n, "text": "yes"}) for n in range(3)))
    assert score_file(questions, given).clusters is None
