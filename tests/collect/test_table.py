import json
import random

import pytest
import torch

from cotbal.collect import Collected, Source, collect, parse_source
from cotbal.estimate.uncertainty import uncertainty
from tests.collect.publishers import WRITERS, Item, csv_items, llava, vlmevalkit, write_table

RUNS = ("mini", "vqa", "ocr")
# Two items on each of five images; the answers differ from run to run, and from item to item.
RIGHT = {"mini": "1000100100", "vqa": "1110111010", "ocr": "1011001110"}


def items(run, task="vqa"):
    marks = RIGHT[run] if task == "vqa" else RIGHT[run][::-1] + "01"
    return [
        Item(place + 5, f"{place // 2}.jpg", f"word{place}", f"word{place}" if mark == "1" else "no")
        for place, mark in enumerate(marks)
    ]


def gather(folder, writers=("csv_items", "llava"), shuffled=False, change=lambda run, task, rows: rows):
    """Both tasks in both formats' files, collected."""
    texts = {}
    for run in RUNS:
        for task, writer in zip(("vqa", "ocr"), writers, strict=True):
            rows = change(run, task, items(run, task))
            if shuffled:
                rows = random.Random(f"{run} {task}").sample(rows, len(rows))
            texts[task] = WRITERS[writer](folder / run / task, rows)
    sources = [
        parse_source(f"{task}: {text}".replace("from=", f"from={task}/"))
        if "lmms" not in text and "vlme" not in text
        else parse_source(f"{task}: {text}")
        for task, text in texts.items()
    ]
    return collect({run: folder / run for run in RUNS}, sources)


def expected(task, run):
    return [item.right for item in items(run, task)]


def same(first: Collected, second: Collected) -> bool:
    return (
        first.scores.tasks == second.scores.tasks
        and torch.equal(first.scores.mini, second.scores.mini)
        and torch.equal(first.scores.probes, second.scores.probes)
        and all(
            torch.equal(first.scores.items[run][task], second.scores.items[run][task])
            for run in RUNS
            for task in first.scores.tasks
        )
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_gives_the_same_scores_and_items(tmp_path, writer):
    found = gather(tmp_path, (writer, "csv_items")).scores
    scale = 100 if writer == "vlmevalkit" else 1
    for run in RUNS:
        assert found.items[run]["vqa"].tolist() == [scale * right for right in expected("vqa", run)]
    means = [scale * sum(expected("vqa", run)) / 10 for run in RUNS]
    assert [found.mini[0].item(), *found.probes[:, 0].tolist()] == pytest.approx(means, rel=1e-12)


@pytest.mark.parametrize("writer", WRITERS)
def test_the_order_of_the_records_changes_nothing(tmp_path, writer):
    straight = gather(tmp_path / "straight", (writer, "csv_items"))
    assert same(straight, gather(tmp_path / "shuffled", (writer, "csv_items"), shuffled=True))


def test_another_item_moves_its_own_cell_alone(tmp_path):
    def change(run, task, rows):
        wrong = rows[0]._replace(answer="no")
        return [wrong, *rows[1:]] if (run, task) == ("ocr", "vqa") else rows

    before, after = gather(tmp_path / "a"), gather(tmp_path / "b", change=change)
    moved = before.scores.probes - after.scores.probes
    assert moved[1, 0].item() == pytest.approx(0.1)
    assert (moved != 0).sum() == 1
    assert torch.equal(before.scores.mini, after.scores.mini)


def test_the_items_on_one_image_are_one_cluster_and_go_into_the_intervals(tmp_path):
    found = gather(tmp_path)
    clusters = {task: numbers.tolist() for task, numbers in found.scores.clusters.items()}
    assert clusters == {"vqa": [n // 2 for n in range(10)], "ocr": [n // 2 for n in range(12)]}
    # A score that is not the mean of its items is refused there.
    assert uncertainty(found.scores, draws=100).tasks == ("vqa", "ocr")


def test_the_sets_of_a_task_count_alike_whatever_their_sizes(tmp_path):
    sources = []
    for task, marks in (("testA", "1100"), ("testB", "10"), ("other", "01")):
        for run in ("mini", "box", "other"):
            rows = [{"id": n, "image": f"{task}{n}", "hit": mark} for n, mark in enumerate(marks)]
            write_table(tmp_path / run / f"{task}.csv", rows)
        name = "other" if task == "other" else "box"
        sources.append(parse_source(f"{name}: format=csv from={task}.csv metric=hit better=higher"))
    write_table(tmp_path / "mini" / "testB.csv", [{"id": n, "image": f"testB{n}", "hit": 1} for n in (0, 1)])
    found = collect({run: tmp_path / run for run in ("mini", "box", "other")}, sources)
    assert found.scores.mini.tolist() == [0.75, 0.5]
    for run, score in (("mini", 0.75), ("box", 0.5)):
        row = found.scores.items[run]["box"]
        assert (row[:4].mean() + row[4:].mean()).item() / 2 == score
        assert set(row.tolist()) <= {0.0, 1.0}
    assert found.scores.clusters["box"].tolist() == list(range(6))
    assert {task: numbers.tolist() for task, numbers in found.scores.strata.items()} == {
        "box": [0, 0, 0, 0, 1, 1]
    }


def test_a_gain_without_noise_is_identified_however_few_items_one_of_the_sets_has(tmp_path):
    sources = []
    for name, task, size in (("large", "box", 500), ("small", "box", 2), ("one", "other", 40)):
        for run in ("mini", "box", "other"):
            marks = (
                [run == "box"] * size if task == "box" else [n % 2 + (run == "other") for n in range(size)]
            )
            rows = [{"id": n, "hit": float(mark)} for n, mark in enumerate(marks)]
            write_table(tmp_path / run / f"{name}.csv", rows)
        sources.append(parse_source(f"{task}: format=csv from={name}.csv metric=hit better=higher"))
    scores = collect({run: tmp_path / run for run in ("mini", "box", "other")}, sources).scores
    assert (scores.mini[0].item(), scores.probes[0, 0].item()) == (0.0, 1.0)
    found = uncertainty(scores, draws=200)
    assert not found.unidentified
    assert found.probes[:, 0, 0].tolist() == pytest.approx([1.0, 1.0], rel=1e-12)


def test_a_set_of_one_item_shows_no_noise_and_is_refused(tmp_path):
    for run in ("mini", "vqa"):
        write_table(tmp_path / run / "a.csv", [{"id": n, "hit": n % 2} for n in range(4)])
        write_table(tmp_path / run / "b.csv", [{"id": 0, "hit": run == "vqa"}])
    text = "vqa: format=csv from={}.csv metric=hit better=higher"
    with pytest.raises(ValueError, match=r"1 of stratum 1; .* leave that validation set out, .*items=no"):
        collect(
            {run: tmp_path / run for run in ("mini", "vqa")}, [parse_source(text.format(n)) for n in "ab"]
        )


def two_sets(folder, first, second):
    """A task of two validation sets, collected; the second one's rows name no image."""
    for run in ("mini", "vqa"):
        write_table(folder / run / "a.csv", [{"id": n, "image": n // 2, "hit": n % 2} for n in range(4)])
        write_table(folder / run / "b.csv", [{"id": n, "hit": n % 2} for n in range(2)])
    texts = (("a", first), ("b", second))
    sources = [parse_source(f"vqa: format=csv from={name}.csv metric=hit {text}") for name, text in texts]
    return collect({run: folder / run for run in ("mini", "vqa")}, sources)


def test_a_set_without_images_leaves_the_clusters_of_the_other(tmp_path):
    found = two_sets(tmp_path, "better=higher", "better=higher")
    assert found.scores.clusters["vqa"].tolist() == [0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("better=higher", "better=complement:1", "expected one direction for all its validation sets"),
        ("better=higher", "better=higher items=no", "one validation set has items, another has none"),
    ],
)
def test_sets_of_a_task_that_do_not_go_together_are_refused(tmp_path, first, second, words):
    with pytest.raises(ValueError, match=f"task 'vqa': {words}"):
        two_sets(tmp_path, first, second)


def test_a_lower_is_better_metric_is_kept_as_measured_with_its_transform(tmp_path):
    for run in RUNS:
        write_table(tmp_path / run / "a.csv", [{"loss": 0.5 + len(run)}])
        write_table(tmp_path / run / "b.csv", [{"EM": 0.25}])
    sources = [
        Source("vqa", "csv", "a.csv", "loss", "complement:10"),
        parse_source("ocr: format=csv from=b.csv metric=EM better=higher"),
    ]
    found = collect({run: tmp_path / run for run in RUNS}, sources)
    assert found.scores.transforms == {"vqa": "complement: 10.0"}
    assert found.scores.mini.tolist() == [4.5, 0.25]
    assert found.scores.oriented("mini").tolist() == [5.5, 0.25]
    assert found.scores.items["mini"] == {}
    assert [told["better"] for (told,) in found.provenance["tasks"].values()] == [
        "complement: 10.0",
        "higher",
    ]


def test_the_single_task_runs_fill_their_rows(tmp_path):
    runs = {}
    for place, run in enumerate([*RUNS, *(f"single_{k}/{t}" for k in ("mini", "full") for t in RUNS[1:])]):
        folder = tmp_path / str(place)
        runs[run] = folder
        # A single-task run has no results of the other task.
        for task in RUNS[1:]:
            if "/" not in run or run.endswith(task):
                write_table(folder / f"{task}.csv", [{"EM": place}])
    sources = [
        parse_source(f"{task}: format=csv from={task}.csv metric=EM better=higher") for task in RUNS[1:]
    ]
    scores = collect(runs, sources).scores
    assert scores.single_mini.tolist() == [3, 4]
    assert scores.single_full.tolist() == [5, 6]
    del runs["single_full/ocr"]
    with pytest.raises(ValueError, match="--run: missing single_full/ocr"):
        collect(runs, sources)


def test_the_provenance_names_files_hashes_and_matching_rules(tmp_path):
    told = gather(tmp_path).provenance
    assert json.loads(json.dumps(told)) == told
    assert told["schema_version"] == 1
    (ocr,) = told["tasks"]["ocr"]
    assert (ocr["better"], ocr["items"]) == ("higher", 12)
    assert ocr["rules"] == {
        "rule": "strict",
        "strip": True,
        "lower": True,
        "full_stop": True,
        "tolerance": 0.05,
    }
    assert ocr["files"]["mini"][0] == str(tmp_path / "mini" / "ocr" / "2_0.jsonl")
    assert all(len(told["files"][file]) == 64 for file in ocr["files"]["mini"])


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (["mini", "vqa"], "--run: missing ocr; the table needs each of mini, vqa, ocr"),
        (["mini", "vqa", "ocr", "orc"], "--run: no such run 'orc' \\(did you mean 'ocr'\\?\\)"),
    ],
)
def test_runs_that_are_not_those_of_the_table_are_named(tmp_path, runs, words):
    for run in RUNS:
        csv_items(tmp_path / run, items(run))
    source = "format=csv from=vqa.csv metric=EM better=higher"
    with pytest.raises(ValueError, match=words):
        collect(dict.fromkeys(runs, tmp_path), [parse_source(f"{task}: {source}") for task in ("vqa", "ocr")])


def test_other_items_in_a_run_are_told_with_their_ids(tmp_path):
    def change(run, task, rows):
        return rows[:-1] if (run, task) == ("ocr", "vqa") else rows

    with pytest.raises(ValueError, match=r"task 'vqa'.*run 'ocr'.*ocr/vqa/vqa.csv without 14 \(1 in all\)"):
        gather(tmp_path, change=change)


def test_an_item_on_another_image_is_told(tmp_path):
    def change(run, task, rows):
        return [rows[0]._replace(image="x.jpg"), *rows[1:]] if (run, task) == ("ocr", "vqa") else rows

    with pytest.raises(
        ValueError, match=r"item '5' is on image '0.jpg' in run 'mini' and on 'x.jpg' in 'ocr'"
    ):
        gather(tmp_path, change=change)


def test_a_run_without_items_among_runs_with_items_is_told(tmp_path):
    texts = {run: vlmevalkit(tmp_path / run, items(run)) for run in RUNS}
    for file in (tmp_path / "ocr").rglob("*_results.tsv"):
        file.unlink()
    source = texts["mini"]
    with pytest.raises(ValueError, match=r"run 'mini' has items .* run 'ocr' has none"):
        collect(
            {run: tmp_path / run for run in RUNS},
            [parse_source(f"{task}: {source}") for task in ("vqa", "ocr")],
        )


def test_two_runs_of_the_same_files_are_refused(tmp_path):
    """A folder named twice: the table would have one model under two names."""
    sources = [parse_source(f"{task}: {csv_items(tmp_path / 'a', items('vqa'))}") for task in RUNS[1:]]
    csv_items(tmp_path / "b", items("mini"))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    words = (
        "--run: expected files of its own for every run, got the same in vqa=.*a and ocr=.*; give the folder"
    )
    for name in ("a", "link"):
        with pytest.raises(ValueError, match=words):
            collect({"mini": tmp_path / "b", "vqa": tmp_path / "a", "ocr": tmp_path / name}, sources)


def test_one_score_table_may_be_that_of_every_run(tmp_path):
    write_table(
        tmp_path / "t.csv", [{"run": run, "vqa": 0.1 * n, "ocr": 0.2} for n, run in enumerate(RUNS, start=1)]
    )
    sources = [parse_source(f"{t}: format=csv from=t.csv metric=x better=higher") for t in ("vqa", "ocr")]
    assert collect(dict.fromkeys(RUNS, tmp_path), sources).scores.mini.tolist() == [0.1, 0.2]


def test_a_missing_folder_is_named(tmp_path):
    for run in RUNS[:2]:
        llava(tmp_path / run, items(run))
    source = "format=llava from='2_*.jsonl' parts=2 metric=EM truth=truth.jsonl"
    with pytest.raises(FileNotFoundError, match=r"No such f.*mini"):
        collect(
            {run: tmp_path / "no" / run for run in RUNS}, [parse_source(f"{t}: {source}") for t in RUNS[1:]]
        )


def test_a_task_with_a_slash_in_its_name_has_single_runs_too(tmp_path):
    kinds = ("single_mini", "single_full")
    runs = dict.fromkeys(("mini", "lab/vqa", "ocr"), ("lab/vqa", "ocr"))
    runs |= {f"{kind}/{task}": (task,) for kind in kinds for task in ("lab/vqa", "ocr")}
    for place, tasks in enumerate(runs.values()):
        for task in tasks:
            write_table(tmp_path / str(place) / f"{task[-3:]}.csv", [{"EM": 0.1 * place + 0.1}])
    sources = [
        parse_source(f"{task}: format=csv from={task[-3:]}.csv metric=EM better=higher")
        for task in ("lab/vqa", "ocr")
    ]
    scores = collect({run: tmp_path / str(place) for place, run in enumerate(runs)}, sources).scores
    assert scores.single_mini.tolist() == pytest.approx([0.4, 0.5])
    assert scores.single_full.tolist() == pytest.approx([0.6, 0.7])
