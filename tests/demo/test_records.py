"""Records in LLaVA's form, nested mini subsets of one ratio, mixtures in the profile's order."""

import dataclasses

import numpy as np
import pytest

from cotbal.demo.profiles import PROFILES, get_profile
from cotbal.demo.questions import TASKS
from cotbal.demo.records import load_corpus, mixture, subset
from cotbal.demo.samples import samples

MICRO = PROFILES["micro"]


@pytest.mark.parametrize("task", MICRO.all_tasks)
def test_records_have_llavas_form_and_one_instruction(task: str) -> None:
    corpus = load_corpus("micro", 0, task, "train")
    assert len(corpus.records) == MICRO.conversations[task]
    assert len({record["id"] for record in corpus.records}) == len(corpus.records)
    for index, record in enumerate(corpus.records):
        turns = record["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert record["task"] == task
        text = " ".join(turn["value"] for turn in turns)
        assert text.count(TASKS[task].instruction) == 1
        assert turns[0]["value"].endswith(TASKS[task].instruction)
        has_image = task != "chat"
        assert ("image" in record) == has_image == turns[0]["value"].startswith("<image>\n")
        assert text.count("<image>") == has_image
        assert (corpus.image(index) is not None) == has_image


def test_evaluation_records_ask_one_question() -> None:
    corpus = load_corpus("micro", 0, "regcap", "test")
    assert len(corpus.records) == MICRO.evaluation_items
    assert {len(record["conversations"]) for record in corpus.records} == {2}


def test_a_corpus_depends_on_seed_task_and_split_alone() -> None:
    again = load_corpus.__wrapped__("micro", 0, "regcap", "train")
    first = load_corpus("micro", 0, "regcap", "train")
    assert again.records == first.records
    assert all(np.array_equal(a.image, b.image) for a, b in zip(again.scenes, first.scenes, strict=True))
    assert load_corpus("micro", 1, "regcap", "train").records != first.records


def test_mini_subsets_have_one_ratio_and_are_nested() -> None:
    quick = get_profile("quick")
    smaller = dataclasses.replace(quick, mini_ratio=1 / 32)
    for task in quick.tasks:
        mini = subset(quick, 0, task, "mini")
        assert len(mini) == len(set(mini)) == quick.conversations[task] / 8
        assert mini == sorted(mini)
        assert set(subset(smaller, 0, task, "mini")) < set(mini)
        assert subset(quick, 0, task, "mini") == mini != subset(quick, 1, task, "mini")
        # A random share, not the first records.
        assert mini[-1] > quick.conversations[task] / 2
        assert set(mini) < set(subset(quick, 0, task, "1/4")) < set(subset(quick, 0, task, "1/2"))
        assert subset(quick, 0, task, "full") == list(range(quick.conversations[task]))


def test_a_mixture_takes_what_it_names() -> None:
    chosen = mixture(MICRO, 0, {"regcap": "mini", "caption": "full"})
    assert chosen == [("caption", list(range(96))), ("regcap", subset(MICRO, 0, "regcap", "mini"))]
    assert [len(indices) for _, indices in mixture(MICRO, 0, {"caption": "1/4", "regcap": "1/2"})] == [24, 48]
    assert sum(len(indices) for _, indices in chosen) == MICRO.run_size({"regcap": "mini", "caption": "full"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "at least one task"),
        ({"vqa": "full"}, "names task 'vqa'; profile micro has caption, regcap, chat"),
        ({"caption": "half"}, r"data\['caption'\] must be 'full', 'mini' or .*, got 'half'"),
        ({"caption": "5/4"}, r"data\['caption'\] must be 'full', 'mini' or .*, got '5/4'"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(data: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture(MICRO, 0, data)


def test_profiles_weigh_seven_tasks_and_fix_one() -> None:
    for name in ("quick", "full"):
        profile = PROFILES[name]
        assert len(profile.tasks) == 7
        assert dict(profile.fixed) == {"chat": 1.0}
        assert {task: TASKS[task].metric for task in profile.all_tasks} == dict(profile.metrics)
        assert profile.has_base
    assert not MICRO.has_base
    with pytest.raises(ValueError, match="profile must be one of quick, full, micro"):
        get_profile("tiny")


def test_samples_show_every_task() -> None:
    shown = samples("micro", 0)
    assert [sample["task"] for sample in shown] == ["caption", "regcap", "chat"]
    assert [sample["image"] is None for sample in shown] == [False, False, True]
    assert shown[0]["image"].shape == (24, 24, 3)
    assert shown[0]["image"].dtype == np.uint8
    assert all(sample["question"] and sample["answer"] for sample in shown)
    assert not any("<image>" in sample["question"] for sample in shown)
