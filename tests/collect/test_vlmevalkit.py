import pytest

from tests.collect.publishers import vlmevalkit, write_json, write_table
from tests.collect.reading import ITEMS, read

TEXT = "format=vlmevalkit from=OCRVQA_TESTCORE metric=Overall"


@pytest.mark.parametrize("detail", ["tsv", "json"])
def test_short_answers(tmp_path, detail):
    vlmevalkit(tmp_path, ITEMS, detail=detail)
    found = read(tmp_path, TEXT)
    assert (found.score, found.percent, found.higher_is_better) == (75.0, True, None)
    assert found.items == {str(item.id): item.right for item in ITEMS}
    assert read(tmp_path, f"{TEXT} image=question").images["7"] == "What?"
    assert read(tmp_path, f"{TEXT} items=no").items is None


def test_short_answers_in_excel_files(tmp_path):
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("openpyxl")
    vlmevalkit(tmp_path, ITEMS)
    for file in tmp_path.rglob("*_results.tsv"):
        if not file.is_symlink():
            pandas.read_csv(file, sep="\t").to_excel(file.with_suffix(".xlsx"), index=False)
    for file in tmp_path.rglob("*_results.tsv"):
        file.unlink()
    assert read(tmp_path, TEXT).items == {str(item.id): item.right for item in ITEMS}


def multiple_choice(folder):
    """ImageMCQDataset.evaluate_heuristic: the score by split as a share, the hits of the matching."""
    rows = [
        {
            "index": n,
            "question": "?",
            "A": "x",
            "answer": "A",
            "prediction": "A",
            "split": split,
            "hit": hit,
            "log": "",
        }
        for n, (split, hit) in enumerate([("dev", 1), ("dev", 0), ("test", 1)])
    ]
    write_table(folder / "llava_MMBench_DEV_EN_exact_matching_result.tsv", rows)
    write_table(
        folder / "llava_MMBench_DEV_EN_acc.csv",
        [{"split": "dev", "Overall": 0.5, "AR": 0.5}, {"split": "test", "Overall": 1.0, "AR": 1.0}],
    )
    return "format=vlmevalkit from=MMBench_DEV_EN metric=Overall"


def test_multiple_choice_by_split(tmp_path):
    text = multiple_choice(tmp_path)
    found = read(tmp_path, f"{text} split=dev")
    assert (found.score, found.items) == (0.5, {"0": 1.0, "1": 0.0})
    with pytest.raises(ValueError, match=r"_acc.csv: expected one row, got 2; say split=... \(dev, test\)"):
        read(tmp_path, text)
    with pytest.raises(ValueError, match="no split 'val'; there is dev, test"):
        read(tmp_path, f"{text} split=val")


def test_a_set_whose_name_another_begins_with_has_its_own_items(tmp_path):
    """MMBench and its version 1.1 in one folder: `_V11_` is not the name of a judge."""
    text = f"{multiple_choice(tmp_path)} split=dev"
    alone = read(tmp_path, text)
    for file in list(tmp_path.iterdir()):
        name = file.name.replace("DEV_EN", "DEV_EN_V11")
        (tmp_path / name).write_text(file.read_text())
    assert read(tmp_path, text) == alone
    assert "V11" in str(read(tmp_path, text.replace("DEV_EN", "DEV_EN_V11")).files[1])
    # The other's items are none of this one's, though they have its score.
    (tmp_path / "llava_MMBench_DEV_EN_exact_matching_result.tsv").unlink()
    assert read(tmp_path, text).items is None


def test_yes_or_no(tmp_path):
    """ImageYORNDataset: the table of matches gets a column score of True and False."""
    rows = [
        {"index": n, "answer": "Yes", "extracted": "Yes", "score": right}
        for n, right in enumerate([True, False])
    ]
    write_table(tmp_path / "llava_POPE_auxmatch.tsv", rows)
    write_table(tmp_path / "llava_POPE_score.csv", [{"split": "Overall", "Overall": 66.7, "acc": 50.0}])
    found = read(tmp_path, "format=vlmevalkit from=POPE metric=acc")
    assert (found.score, found.items) == (50.0, {"0": 1.0, "1": 0.0})
    # The items may do without the column, the score not.
    assert read(tmp_path, "format=vlmevalkit from=POPE metric=acc split=Overall") == found
    write_table(tmp_path / "llava_POPE_score.csv", [{"Overall": 66.7, "acc": 50.0}])
    with pytest.raises(ValueError, match="no split 'Overall'; there is no column split"):
        read(tmp_path, "format=vlmevalkit from=POPE metric=acc split=Overall")


def test_captions_have_a_score_alone(tmp_path):
    """ImageCaptionDataset: a JSON object."""
    write_json(
        tmp_path / "llava_COCO_VAL_score.json", {"Bleu": [70.0, 50.0], "ROUGE_L": 55.0, "CIDEr": 101.5}
    )
    found = read(tmp_path, "format=vlmevalkit from=COCO_VAL metric=CIDEr")
    assert (found.score, found.items) == (101.5, None)
    with pytest.raises(ValueError, match=r"_score.json: the object, field 'Bleu': expected a number"):
        read(tmp_path, "format=vlmevalkit from=COCO_VAL metric=Bleu")


def test_grounding_by_split(tmp_path):
    """RefCOCODataset: hits and overlaps in one table, and an average that is no mean over items."""
    rows = [
        {"index": f"r{n}", "prediction": "[]", "pred_bbox": "", "iou": iou, "hit": hit, "split": split}
        for n, (iou, hit, split) in enumerate(
            [(0.6, 1, "RefCOCO_val"), (0.2, 0, "RefCOCO_val"), (0.9, 1, "RefCOCO+_val")]
        )
    ]
    write_table(tmp_path / "llava_RefCOCO_detail.tsv", rows)
    write_table(
        tmp_path / "llava_RefCOCO_acc.csv",
        [
            {"Split": "RefCOCO_val", "Precision@1": 50.0, "Average IoU": 0.4, "Samples": 2},
            {"Split": "RefCOCO+_val", "Precision@1": 100.0, "Average IoU": 0.9, "Samples": 1},
            {"Split": "Average", "Precision@1": 75.0, "Average IoU": 0.65, "Samples": 3},
        ],
    )
    text = "format=vlmevalkit from=RefCOCO split=RefCOCO_val"
    assert read(tmp_path, f"{text} metric=Precision@1").items == {"r0": 1.0, "r1": 0.0}
    with pytest.raises(
        ValueError, match=r"_detail.tsv: no split 'Average'; .*; items=no takes the tool's own"
    ):
        read(tmp_path, "format=vlmevalkit from=RefCOCO split=Average metric=Precision@1")
    overlap = read(tmp_path, f"{text} 'metric=Average IoU' column=iou")
    assert (overlap.score, overlap.items) == (0.4, {"r0": 0.6, "r1": 0.2})


@pytest.mark.parametrize(
    ("name", "judge", "first"),
    [("MMVet", "gpt-4-turbo", "Category"), ("MathVista_MINI", "gpt-4o-mini", "Task&Skill")],
)
def test_judged_answers(tmp_path, name, judge, first):
    """MMVet, MathVista: the judge is in the file's name, the first column names the rows."""
    rows = [{first: "ocr", "tot": 2, "acc": 20.0}, {first: "Overall", "tot": 4, "acc": 26.5}]
    write_table(tmp_path / f"llava_{name}_{judge}_score.csv", rows)
    with pytest.raises(ValueError, match=f"the judge is a part of the name, as in from={name}_{judge}$"):
        read(tmp_path, f"format=vlmevalkit from={name} metric=acc")
    text = f"format=vlmevalkit from={name}_{judge} metric=acc"
    with pytest.raises(ValueError, match=r"expected one row, got 2; say split=... \(ocr, Overall\)"):
        read(tmp_path, text)
    assert read(tmp_path, f"{text} split=Overall").score == 26.5


def test_items_without_the_usual_column_are_told_with_what_they_have(tmp_path):
    """LLaVABench: what the judge gave has columns of its own."""
    write_table(tmp_path / "llava_LLaVABench_score.csv", [{"split": "overall", "VLM Score": 70.0}])
    write_table(tmp_path / "llava_LLaVABench_openai_result.tsv", [{"index": 1, "gpt4_score": 9, "score": 7}])
    text = "format=vlmevalkit from=LLaVABench 'metric=VLM Score'"
    with pytest.raises(
        ValueError, match=r"field 'hit': .*; say column=... \(index, gpt4_score, score\), or items=no"
    ):
        read(tmp_path, text)
    assert read(tmp_path, f"{text} items=no").score == 70.0
    assert read(tmp_path, f"{text} column=score").items == {"1": 7.0}


@pytest.mark.parametrize("column", ["split", "category"])
def test_short_answers_by_a_column_of_the_score(tmp_path, column):
    """ImageVQADataset: the row of ChartQA_TEST has a column for each split, others' for each category."""
    rows = [
        {"index": n, column: split, "eval_score": right}
        for n, (split, right) in enumerate([("test_human", 1), ("test_human", 0), ("test_augmented", 1)])
    ]
    write_table(tmp_path / "llava_ChartQA_TEST_results.tsv", rows)
    score = {"test_augmented": 100.0, "test_human": 50.0, "Overall": 200 / 3}
    write_table(tmp_path / "llava_ChartQA_TEST_acc.csv", [score])
    text = "format=vlmevalkit from=ChartQA_TEST"
    found = read(tmp_path, f"{text} metric=test_human")
    assert (found.score, found.items) == (50.0, {"0": 1.0, "1": 0.0})
    assert read(tmp_path, f"{text} metric=Overall").items == {"0": 1.0, "1": 0.0, "2": 1.0}
    with pytest.raises(ValueError, match=r"no split 'test_human'; .* its own column is metric=test_human"):
        read(tmp_path, f"{text} metric=Overall split=test_human")


def test_files_of_two_evaluations_are_never_chosen_from(tmp_path):
    vlmevalkit(tmp_path, ITEMS)
    vlmevalkit(tmp_path / "again", ITEMS)
    with pytest.raises(ValueError, match="expected 1 file, got 2"):
        read(tmp_path, TEXT)


def test_two_kinds_of_items_are_never_chosen_from(tmp_path):
    vlmevalkit(tmp_path, ITEMS)
    write_table(tmp_path / "m_OCRVQA_TESTCORE_auxmatch.tsv", [{"index": 7, "score": 0.75}])
    with pytest.raises(
        ValueError, match=r"expected one file, got .*_results.tsv, .*_auxmatch.tsv; .*detail="
    ):
        read(tmp_path, TEXT)
    assert read(tmp_path, f"{TEXT} detail=_auxmatch").items == {"7": 0.75}


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such score file"):
        read(tmp_path, TEXT)
    with pytest.raises(FileNotFoundError, match="No such folder"):
        read(tmp_path / "none", TEXT)
    vlmevalkit(tmp_path, ITEMS)
    with pytest.raises(FileNotFoundError, match="No such items' file"):
        read(tmp_path, f"{TEXT} detail=_other")
    with pytest.raises(
        ValueError, match=r"_results.tsv: line 2, field 'hit': expected a number, got nothing"
    ):
        read(tmp_path, f"{TEXT} column=hit")
    with pytest.raises(ValueError, match=r"_acc.csv: line 2, field 'Total': expected a number, got nothing"):
        read(tmp_path, TEXT.replace("Overall", "Total"))


def test_a_pickle_is_never_opened(tmp_path):
    vlmevalkit(tmp_path, ITEMS)
    for file in tmp_path.rglob("*_results.tsv"):
        file.unlink()
    (tmp_path / "m_OCRVQA_TESTCORE_results.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ValueError, match="pickles are not read, they can run code"):
        read(tmp_path, TEXT)
