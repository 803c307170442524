"""One run of the demo: its result follows from its settings, weights matter, progress is as announced."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cotbal.balancing import TLA
from cotbal.demo import profiles
from cotbal.demo.base import patch_targets, train_vision
from cotbal.demo.batches import collate, encode_record
from cotbal.demo.job import MODEL_FILE, run
from cotbal.demo.model import build_model, load_model, save_model
from cotbal.demo.profiles import PROFILES, steps
from cotbal.demo.records import alignment_corpus, load_corpus
from cotbal.demo.train import step_weights

MICRO = PROFILES["micro"]
TASKS = ((0, "caption"), (1, "regcap"))


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "profile": "micro",
        "seed": 0,
        "data": {"caption": "mini", "regcap": "mini"},
        "weights": None,
        "weighting": "static",
        "split": "validation",
        "evaluate": ["regcap"],
        "device": "cpu",
    } | changes


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[profiles.Profile]:
    """The micro profile, with a base stage of a few steps under the name "short"."""
    profile = dataclasses.replace(
        MICRO, name="short", head_steps=8, alignment_steps=6, base_scenes=64, epochs=2, evaluation_items=8
    )
    monkeypatch.setitem(PROFILES, "short", profile)
    load_corpus.cache_clear()
    yield profile
    load_corpus.cache_clear()


def ignore(done: int) -> None:
    pass


def without_time(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "seconds"}


def test_the_same_settings_give_the_same_bits_whatever_ran_between(tmp_path: Path) -> None:
    first = run(settings(), tmp_path, ignore)
    torch.manual_seed(99)
    other = run(settings(seed=1), tmp_path, ignore)
    again = run(settings(), tmp_path, ignore)
    assert without_time(again) == without_time(first) != without_time(other)


def test_a_run_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(settings(), tmp_path, ignore)
    assert torch.equal(torch.rand(3), expected)


def test_result_and_progress(tmp_path: Path) -> None:
    reported: list[int] = []
    wanted = settings(data={"caption": "mini", "chat": "full"}, evaluate=["caption", "chat"], split="test")
    result = run(wanted, tmp_path, reported.append)
    assert reported[-1] == steps(wanted)
    assert reported == sorted(reported)
    assert max(b - a for a, b in itertools.pairwise(reported)) <= 10
    # 6 and 64 conversations in batches of 16, 8 epochs.
    assert result["steps"] == 8 * 5
    assert set(result["task_loss"]) == {"caption", "chat"}
    items = result["items"]["caption"]["CIDEr"]
    assert len(items) == MICRO.evaluation_items
    assert result["scores"]["caption"]["CIDEr"] == pytest.approx(sum(items) / len(items))
    assert set(result["items"]["chat"]["EM"]) <= {0.0, 1.0}


def test_weights_change_training_and_their_scale_does_not(tmp_path: Path) -> None:
    losses = {}
    cases = {"none": None, "ones": (1, 1), "threes": (3, 3), "unequal": (0.3, 1.7), "scaled": (0.6, 3.4)}
    for name, pair in cases.items():
        weights = None if pair is None else dict(zip(("caption", "regcap"), pair, strict=True))
        losses[name] = run(settings(weights=weights, evaluate=[]), tmp_path, ignore)["task_loss"]
    assert losses["none"] == losses["ones"]
    # A power of two rounds nothing, so the bits are the same; 3 rounds, and AdamW carries that on.
    assert losses["scaled"] == losses["unequal"]
    assert losses["threes"] == pytest.approx(losses["ones"], rel=1e-3)
    assert losses["unequal"]["regcap"] < losses["ones"]["regcap"] * 0.99
    assert losses["unequal"]["caption"] > losses["ones"]["caption"] * 1.01


def test_a_weight_of_zero_is_as_good_as_no_training_on_the_task(tmp_path: Path) -> None:
    lone = run(settings(weights={"caption": 0.0, "regcap": 1.0}, evaluate=[]), tmp_path, ignore)
    both = run(settings(evaluate=[]), tmp_path, ignore)
    # A row of weight 0 is not read: its loss is not even known.
    assert lone["task_loss"]["caption"] is None
    assert lone["task_loss"]["regcap"] < both["task_loss"]["regcap"]


def test_tla_gives_every_present_task_of_a_step_the_same_share(tmp_path: Path) -> None:
    examples = [encode_record(load_corpus("micro", 0, t, "train").records[0], None, i) for i, t in TASKS]
    batch = collate(examples)
    weights = step_weights(TLA().bind(["caption", "regcap", "absent"]), batch)
    tokens = [sum(label != -100 for label in example.labels) for example in examples]
    assert len(set(tokens)) == 2
    assert (weights[:2] * torch.tensor(tokens)).tolist() == pytest.approx([sum(tokens) / 2] * 2)
    assert weights[2] == 0
    tla = run(settings(weighting="tla", evaluate=[]), tmp_path, ignore)
    assert tla["task_loss"] != run(settings(evaluate=[]), tmp_path, ignore)["task_loss"]


def test_full_data_beats_the_mini_subset(tmp_path: Path) -> None:
    mini = run(settings(), tmp_path, ignore)["scores"]["regcap"]["CIDEr"]
    full = run(settings(data={"caption": "mini", "regcap": "full"}), tmp_path, ignore)["scores"]["regcap"]
    assert full["CIDEr"] > mini > 0


def test_base_stage_and_a_run_from_it(short: profiles.Profile, tmp_path: Path) -> None:
    reported: list[int] = []
    base = {"kind": "base", "profile": "short", "seed": 0}
    result = run(base, tmp_path, reported.append)
    assert result["steps"] == 14
    assert reported[-1] == steps(base) == 8 // 4 + 6
    # Both stages ran, each reporting every step.
    assert len(reported) == 8 + 6
    trained = load_model(short, tmp_path / MODEL_FILE).state_dict()
    untrained = build_model(short, 0).state_dict()
    assert not torch.equal(trained["lm_head.weight"], untrained["lm_head.weight"])
    wanted = settings(profile="short", needs={"base": str(tmp_path)})
    from_base = run(wanted, tmp_path / "unused", ignore)
    save_model(build_model(short, 0), tmp_path / MODEL_FILE)
    assert run(wanted, tmp_path / "unused", ignore)["loss"] != from_base["loss"]


def test_the_vision_heads_train_the_vision_tower_alone(short: profiles.Profile) -> None:
    model, before = build_model(short, 0), build_model(short, 0).state_dict()
    train_vision(model, alignment_corpus(0, 64).scenes, short, 0, ignore)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any("patch_embedding" in name for name in changed)
    assert all("vision_tower" in name for name in changed)


def test_patch_targets_tell_digit_color_and_box() -> None:
    scene = load_corpus("micro", 0, "caption", "train").scenes[0]
    (targets,) = patch_targets([scene])
    for digit in scene.digits:
        assert targets[digit.cell, 0] == digit.value
        assert tuple(targets[digit.cell, 2:]) == digit.box
    empty = [cell for cell in range(9) if cell not in {digit.cell for digit in scene.digits}]
    assert (targets[empty] == [10, 6, -100, -100, -100, -100]).all()


def test_the_real_llava_has_the_announced_size() -> None:
    parameters = sum(p.numel() for p in build_model(PROFILES["quick"], 0).parameters())
    assert 300_000 < parameters < 310_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "test"}, "kind must be 'base' or 'train', got 'test'"),
        ({"kind": "base"}, "profile micro has no base stage"),
        ({"profile": "huge"}, "profile must be one of"),
        ({"profile": "quick", "data": {"vqa": "mini"}}, r"needs\['base'\]"),
        ({"weighting": "dwa"}, "weighting must be 'static' or 'tla', got 'dwa'"),
        ({"weighting": "tla", "weights": {"caption": 1.0, "regcap": 1.0}}, "weights must be None"),
        ({"weights": {"caption": 1.0}}, "no weight for task 'regcap'"),
        ({"split": "train"}, "split must be 'validation' or 'test', got 'train'"),
        ({"data": {"vqa": "full"}}, "names task 'vqa'"),
        ({"evaluate": ["vqa"]}, "evaluate names task 'vqa'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(settings(**changes), tmp_path, ignore)
