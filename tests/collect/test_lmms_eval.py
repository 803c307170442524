import json

import pytest

from cotbal.collect.align import align
from cotbal.collect.formats import reader
from cotbal.collect.source import parse_source
from tests.collect.publishers import lmms_eval, write_json, write_jsonl
from tests.collect.reading import ITEMS, read

TEXT = "format=lmms-eval from=vqav2_val_lite metric=exact_match"


def results(folder):
    (file,) = folder.rglob("*_results.json")
    return file


def samples(folder):
    (file,) = folder.rglob("*_samples_*.jsonl")
    return file


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_score_items_and_direction(tmp_path):
    found = read(tmp_path, lmms_eval(tmp_path, ITEMS))
    assert found.score == 0.75
    assert sorted(found.items.values()) == [0, 1, 1, 1]
    assert [key.split()[0] for key in found.items] == ["7", "8", "9", "12"]
    assert found.higher_is_better is True
    assert found.files == (results(tmp_path), samples(tmp_path))


def test_without_samples_there_is_the_score(tmp_path):
    lmms_eval(tmp_path, ITEMS)
    found = read(tmp_path, f"{TEXT} items=no")
    assert (found.items, found.number) == (None, len(ITEMS))
    samples(tmp_path).unlink()
    found = read(tmp_path, TEXT)
    assert (found.score, found.items) == (0.75, None)


def test_another_version_of_a_document_is_another_item(tmp_path):
    first = read(tmp_path / "a", lmms_eval(tmp_path / "a", ITEMS)).items
    changed = [ITEMS[0]._replace(truth="blue", answer="blue"), *ITEMS[1:]]
    second = read(tmp_path / "b", lmms_eval(tmp_path / "b", changed)).items
    assert len(first.keys() ^ second.keys()) == 2


def test_a_place_in_memory_is_no_version(tmp_path):
    keys = []
    for place in ("7f1a", "90bc"):
        items = [item._replace(truth=f"<PIL.Image at 0x{place}>") for item in ITEMS]
        keys.append(read(tmp_path / place, lmms_eval(tmp_path / place, items)).items.keys())
    assert keys[0] == keys[1]


def test_tasks_may_be_evaluated_one_by_one(tmp_path):
    lmms_eval(tmp_path, ITEMS)
    text = results(tmp_path).read_text()
    other = results(tmp_path).with_name("20260807_000000_results.json")
    other.write_text(text.replace("vqav2_val_lite", "gqa"))
    assert read(tmp_path, TEXT).score == 0.75
    other.write_text(text)
    with pytest.raises(ValueError, match=r"results of 'vqav2_val_lite' stand in .*, .*; keep one"):
        read(tmp_path, TEXT)


def test_the_image_is_in_the_document_up_to_0_3(tmp_path):
    lmms_eval(tmp_path, ITEMS)
    rows = [
        json.loads(line) | {"doc": {"image_id": n // 2}}
        for n, line in enumerate(samples(tmp_path).read_text().splitlines())
    ]
    samples(tmp_path).write_text("\n".join(map(json.dumps, rows)))
    assert list(read(tmp_path, f"{TEXT} image=image_id").images.values()) == ["0", "0", "1", "1"]
    lmms_eval(tmp_path, ITEMS)
    with pytest.raises(ValueError, match=r"line 1, field 'doc': expected the document"):
        read(tmp_path, f"{TEXT} image=image_id")


def test_a_filter_is_asked_for_where_there_are_several(tmp_path):
    lmms_eval(tmp_path, ITEMS, **{"exact_match,flexible-extract": 0.75})
    with pytest.raises(
        ValueError, match=r"'exact_match' has the filters none, flexible-extract; say filter="
    ):
        read(tmp_path, TEXT)
    assert read(tmp_path, f"{TEXT} filter=flexible-extract").score == 0.75
    with pytest.raises(ValueError, match=r"no metric 'exact_match' with filter 'x'"):
        read(tmp_path, f"{TEXT} filter=x")


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ("N/A", "expected a number, got 'N/A'"),
        (float("nan"), "expected a finite number"),
        (None, "expected a number"),
    ],
)
def test_a_score_that_is_none_is_told(tmp_path, score, words):
    lmms_eval(tmp_path, ITEMS, **{"exact_match,none": score})
    with pytest.raises(
        ValueError, match=f"_results.json: results of 'vqav2_val_lite', field 'exact_match,none': {words}"
    ):
        read(tmp_path, TEXT)


def test_a_task_or_metric_that_is_not_there_is_told_with_those_that_are(tmp_path):
    lmms_eval(tmp_path, ITEMS)
    with pytest.raises(ValueError, match="no results of 'gqa'; there are those of vqav2_val_lite"):
        read(tmp_path, "format=lmms-eval from=gqa metric=exact_match")
    with pytest.raises(ValueError, match="no metric 'acc'; there are exact_match,none, submission,none"):
        read(tmp_path, "format=lmms-eval from=vqav2_val_lite metric=acc")


def test_a_group_is_told_with_its_tasks(tmp_path):
    """As results of `--tasks docvqa` have it, with no score of its own."""
    lmms_eval(tmp_path, ITEMS)

    def grouped(content):
        content["results"]["vqav2"] = {" ": " ", "alias": "vqav2"}
        content["group_subtasks"] = {"vqav2": ["vqav2_test", "vqav2_val_lite"]}

    edit(results(tmp_path), grouped)
    with pytest.raises(ValueError, match=r"it is a group; .* from=vqav2_test or from=vqav2_val_lite$"):
        read(tmp_path, "format=lmms-eval from=vqav2 metric=exact_match")
    with pytest.raises(ValueError, match=r"no metric 'exact_match,none'; .*, the filter behind the comma"):
        read(tmp_path, f"{TEXT},none")


def test_answers_for_a_server_beside_the_results_are_passed_over(tmp_path):
    """As tasks of captions write them, whichever task is asked for."""
    lmms_eval(tmp_path, ITEMS)
    write_json(
        tmp_path / "submissions" / "coco_captions_val2014_alg_results.json", [{"image_id": 1, "caption": "a"}]
    )
    assert read(tmp_path, TEXT).score == 0.75


@pytest.mark.parametrize(
    ("metric", "ids"),
    [
        ("relaxed_overall", [0, 1, 2, 3, 4]),
        ("relaxed_human_split", [0, 1]),
        ("relaxed_augmented_split", [2, 3, 4]),
    ],
)
def test_a_metric_of_a_part_has_the_items_that_have_it(tmp_path, metric, ids):
    """ChartQA: "samples" is the number of the metric that was computed last."""
    right = [1.0, 0.0, 1.0, 1.0, 0.0]
    parts = {"relaxed_overall": right, "relaxed_human_split": right[:2], "relaxed_augmented_split": right[2:]}
    scores = {f"{name},none": sum(part) / len(part) for name, part in parts.items()}
    content = {"results": {"chartqa": {"alias": "chartqa", "samples": 3} | scores}}
    rows = [
        {"doc_id": n, "doc_hash": f"{n:064x}", "relaxed_overall": each}
        | {"relaxed_human_split" if n < 2 else "relaxed_augmented_split": each}
        for n, each in enumerate(right)
    ]
    write_json(tmp_path / "20260806_102223_results.json", content)
    file = write_jsonl(tmp_path / "20260806_102223_samples_chartqa.jsonl", rows)
    found = read(tmp_path, f"format=lmms-eval from=chartqa metric={metric}")
    assert [int(key.split()[0]) for key in found.items] == ids
    assert found.score == sum(found.items.values()) / len(ids)
    write_jsonl(file, rows[:4])
    with pytest.raises(ValueError, match=r"expected 3 samples as .*_results.json states, got 4"):
        read(tmp_path, f"format=lmms-eval from=chartqa metric={metric}")


def test_files_that_are_not_whole_are_told(tmp_path):
    lmms_eval(tmp_path, ITEMS)
    file, whole = samples(tmp_path), samples(tmp_path).read_text()
    file.write_text(whole[:-20])
    with pytest.raises(
        ValueError, match=r"samples_vqav2_val_lite.jsonl: line 4: expected JSON, is it whole\?"
    ):
        read(tmp_path, TEXT)
    file.write_text("".join(whole.splitlines(keepends=True)[:3]))
    with pytest.raises(ValueError, match=r"expected 4 samples as .*_results.json states, got 3"):
        read(tmp_path, TEXT)
    # Samples of a second filter come with the same ids.
    file.write_text(whole + whole)
    with pytest.raises(ValueError, match=r"line 5, field 'doc_id': id '7' stands twice.*; .* need items=no"):
        read(tmp_path, TEXT)
    results(tmp_path).write_text('{"results": {"vqav2')
    with pytest.raises(ValueError, match=r"_results.json: expected JSON, is it whole\?"):
        read(tmp_path, TEXT)
    results(tmp_path).write_text("[]")
    with pytest.raises(ValueError, match="expected lmms-eval's results"):
        read(tmp_path, TEXT)


def test_the_score_of_an_object_is_an_item(tmp_path):
    """As POPE's: the same objects stand under its accuracy and its F1, which is no mean of them."""
    text = lmms_eval(tmp_path, ITEMS, **{"f1,none": 0.8})
    rows = [json.loads(line) for line in samples(tmp_path).read_text().splitlines()]
    told = [
        {"question_id": n, "score": row["exact_match"], "prediction": "yes"} for n, row in enumerate(rows)
    ]
    write_jsonl(
        samples(tmp_path), [row | {"exact_match": t, "f1": t} for row, t in zip(rows, told, strict=True)]
    )
    found = read(tmp_path, text)
    assert (found.score, sorted(found.items.values())) == (0.75, [0, 1, 1, 1])
    source = parse_source(f"vqa: {text.replace('exact_match', 'f1')} better=higher")
    with pytest.raises(
        ValueError, match=r"gives the score 0.8, the mean of the items .* is 0.75; .* items=no"
    ):
        align(source, {"mini": reader(source).read(tmp_path, source, "mini")})


def test_samples_that_are_no_numbers_need_items_no(tmp_path):
    lmms_eval(tmp_path, ITEMS)
    rows = [json.loads(line) for line in samples(tmp_path).read_text().splitlines()]
    write_jsonl(samples(tmp_path), [row | {"exact_match": {"pred": "a"}} for row in rows])
    with pytest.raises(ValueError, match=r"line 1, field 'exact_match': expected a number; .* items=no"):
        read(tmp_path, TEXT)
    assert read(tmp_path, f"{TEXT} items=no").score == 0.75


@pytest.mark.parametrize("says", [False, None])
def test_the_direction_is_what_the_file_says(tmp_path, says):
    lmms_eval(tmp_path, ITEMS)
    edit(
        results(tmp_path),
        lambda content: content["higher_is_better"]["vqav2_val_lite"].update(exact_match=says),
    )
    assert read(tmp_path, TEXT).higher_is_better is says
    edit(results(tmp_path), lambda content: content.pop("higher_is_better"))
    assert read(tmp_path, TEXT).higher_is_better is None
