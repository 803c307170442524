"""One run of the demo: trains a model as its settings say and scores it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import LlavaForConditionalGeneration

from cotbal.balancing import TLA, StaticWeights, Weighting
from cotbal.demo.base import train_base
from cotbal.demo.batches import encode_record
from cotbal.demo.evaluate import evaluate
from cotbal.demo.model import build_model, load_model, save_model
from cotbal.demo.profiles import EVALUATION_BATCH_COST, Profile, get_profile
from cotbal.demo.records import load_corpus, mixture
from cotbal.demo.train import Outcome, Report, fit_epochs

MODEL_FILE = "model.safetensors"


def run(settings: Mapping[str, Any], folder: Path, report: Callable[[int], None]) -> dict[str, Any]:
    """Trains one model and returns its result as JSON values.

    Args:
        settings: they determine the result. Either `{"kind": "base", "profile", "seed"}`, or
            `{"kind": "train", "profile", "seed", "data": {task: "full" | "mini"},
            "weights": {task: float} | None (all 1), "weighting": "static" | "tla",
            "split": "validation" | "test", "evaluate": [task, ...]}`; both take "device" ("cpu" if absent).
            "needs": {"base": folder} tells where the base model is.
        folder: where the base model is written to.
        report: called with the steps done, of the `cotbal.demo.profiles.steps(settings)` in all.

    Returns:
        For a base run "steps" and "loss"; for a training run also "seconds", "task_loss", "scores"
        {task: {metric: mean}} and "items" {task: {metric: [per item]}}, the items in the corpus's order.

    Raises:
        ValueError: settings that do not fit together.
    """
    profile = get_profile(settings["profile"])
    if settings["kind"] == "base":
        return _base(profile, settings, folder, report)
    if settings["kind"] == "train":
        return _train(profile, settings, report)
    raise ValueError(f"kind must be 'base' or 'train', got {settings['kind']!r}")


def _base(profile: Profile, settings: Mapping[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    if not profile.has_base:
        raise ValueError(f"profile {profile.name} has no base stage; leave the base run out")
    model, outcome = train_base(profile, settings["seed"], settings.get("device", "cpu"), report)
    save_model(model, folder / MODEL_FILE)
    return {"steps": profile.head_steps + profile.alignment_steps, "loss": outcome.loss}


def _train(profile: Profile, settings: Mapping[str, Any], report: Report) -> dict[str, Any]:
    started = time.perf_counter()
    _check_evaluation(profile, settings)
    tasks = [task for task in profile.all_tasks if task in settings["data"]]
    length = profile.training_steps(settings["data"])
    weighting = _weighting(settings, tasks)
    model = _starting_model(profile, settings)
    outcome = _fit(model, profile, settings, weighting, report)
    items = {}
    done = length

    def batch_done() -> None:
        nonlocal done
        done += EVALUATION_BATCH_COST
        report(done)

    for task in settings["evaluate"]:
        items[task] = evaluate(model, profile, settings["seed"], task, settings["split"], batch_done)
    return {
        "steps": length,
        "loss": outcome.loss,
        "task_loss": dict(zip(tasks, outcome.task_loss, strict=True)),
        "seconds": time.perf_counter() - started,
        "scores": {task: {m: sum(v) / len(v) for m, v in by.items()} for task, by in items.items()},
        "items": items,
    }


def _check_evaluation(profile: Profile, settings: Mapping[str, Any]) -> None:
    # Before the training, not after it.
    if settings["split"] not in ("validation", "test"):
        raise ValueError(f"split must be 'validation' or 'test', got {settings['split']!r}")
    unknown = [task for task in settings["evaluate"] if task not in profile.all_tasks]
    if unknown:
        known = ", ".join(profile.all_tasks)
        raise ValueError(f"evaluate names task {unknown[0]!r}; profile {profile.name} has {known}")


def _fit(
    model: LlavaForConditionalGeneration,
    profile: Profile,
    settings: Mapping[str, Any],
    weighting: Weighting,
    report: Report,
) -> Outcome:
    seed, examples = settings["seed"], []
    for task_id, (task, indices) in enumerate(mixture(profile, seed, settings["data"])):
        corpus = load_corpus(profile.name, seed, task, "train")
        examples += [encode_record(corpus.records[i], corpus.image(i), task_id) for i in indices]
    return fit_epochs(model, examples, weighting, profile, seed, report)


def _starting_model(profile: Profile, settings: Mapping[str, Any]) -> LlavaForConditionalGeneration:
    device = settings.get("device", "cpu")
    if not profile.has_base:
        return build_model(profile, settings["seed"]).to(device)
    folder = settings.get("needs", {}).get("base")
    if folder is None:
        raise ValueError(f"a run of profile {profile.name} needs the folder of its base run in needs['base']")
    return load_model(profile, Path(folder) / MODEL_FILE).to(device)


def _weighting(settings: Mapping[str, Any], tasks: list[str]) -> Weighting:
    device = settings.get("device", "cpu")
    if settings["weighting"] == "tla":
        if settings["weights"] is not None:
            raise ValueError("weighting 'tla' computes the weights of every step; weights must be None")
        return TLA().bind(tasks, device)
    if settings["weighting"] != "static":
        raise ValueError(f"weighting must be 'static' or 'tla', got {settings['weighting']!r}")
    return StaticWeights(settings["weights"]).bind(tasks, device)
