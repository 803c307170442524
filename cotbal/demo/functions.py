"""Training and evaluation of the digit world's files: the functions that the recipe `digits.yaml` names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Picture

from cotbal.balancing import as_weighting
from cotbal.demo import evaluate as evaluation
from cotbal.demo.batches import encode_record
from cotbal.demo.job import MODEL_FILE
from cotbal.demo.model import load_model, save_model
from cotbal.demo.profiles import get_profile
from cotbal.demo.records import Image, Record
from cotbal.demo.train import fit_epochs
from cotbal.files import write_json

Report = Callable[[int], None]


def train(
    report: Report,
    *,
    profile: str,
    data: str,
    images: str,
    base_model: str,
    weights: str,
    seed: str,
    output: str,
) -> None:
    """Trains a model and writes it to the folder `output`.

    Args:
        report: called with the samples done, each epoch counted.
        profile: name of the profile that has the settings.
        data: JSONL of records with their "task".
        images: the folder of their pictures.
        base_model: the folder of the model to start from.
        weights: the task weights as JSON, or a rule that computes them.
        seed: of the order of the data.
        output: the folder for the model.
    """
    torch.set_num_threads(1)
    settings, records = get_profile(profile), _records(data)
    present = {record["task"] for record in records}
    tasks = [task for task in settings.all_tasks if task in present]
    examples = [encode_record(r, _picture(images, r), tasks.index(r["task"])) for r in records]
    weighting = as_weighting(weights).bind(tasks)
    model = load_model(settings, Path(base_model) / MODEL_FILE)
    samples, batches = len(records), -(-len(records) // settings.batch_size)
    fit_epochs(
        model, examples, weighting, settings, int(seed), lambda done: report(done * samples // batches)
    )
    save_model(model, Path(output) / MODEL_FILE)


def evaluate(
    report: Report, *, profile: str, model: str, task: str, data: str, images: str, scores: str
) -> None:
    """Scores a model on the questions of a task and writes {"score", "items"} to `scores`.

    Args:
        report: called with the questions done.
        profile: name of the profile that has the settings.
        model: the folder of the model.
        task: the task, which has a metric.
        data: JSONL of records of one question each.
        images: the folder of their pictures.
        scores: the file for the score.
    """
    torch.set_num_threads(1)
    settings, records = get_profile(profile), _records(data)
    done = 0

    def batch_done() -> None:
        nonlocal done
        done += settings.evaluation_batch
        report(min(done, len(records)))

    pictures = [_picture(images, record) for record in records]
    trained = load_model(settings, Path(model) / MODEL_FILE)
    items = evaluation.score(trained, settings, settings.metrics[task], records, pictures, batch_done)
    write_json(Path(scores), {"score": sum(items) / len(items), "items": items})


def _records(path: str) -> list[Record]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def _picture(folder: str, record: Record) -> Image | None:
    if "image" not in record:
        return None
    with Picture.open(Path(folder) / record["image"]) as picture:
        return np.asarray(picture)
