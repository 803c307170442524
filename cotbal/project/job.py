"""What a worker does for one run of a project: a training command, or an evaluation command and its score."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, TypeGuard

from cotbal.estimate.items_json import ITEM_TOLERANCE
from cotbal.files import distinct_keys, is_finite, write_json
from cotbal.project.data import Part, check_model, check_unchanged, write_mixture
from cotbal.project.functions import call, is_function
from cotbal.project.template import fill, placeholders
from cotbal.runs import processes
from cotbal.runs.processes import CommandError
from cotbal.runs.store import LOG_FILE, is_removed
from cotbal.weights import TaskWeights

# Of `cotbal score`; another script may call its own by any name.
METRICS = ("EM", "CIDEr", "Acc@IoU", "mIoU")
LOG_LINES = 20
LOG_BYTES = 1 << 14
_LAUNCHER_ERROR = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError"
POLL_SECONDS = 0.05
# In {output} of an evaluation that may go on from its answers: which training they are of.
MODEL_FILE = ".model.json"
# How often the log is searched for a progress bar.
LOOK_SECONDS = 2.0

Report = Callable[[int], None]


def train(settings: Mapping[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Trains a model; returns where it is.

    Args:
        settings: as `ProjectRecipe` makes them, with "context".
        folder: the run's folder.
        report: called with the work done.

    Raises:
        CommandError: the data has changed since the plan, the command failed, or left no model.
    """
    context = settings["context"]
    paths = train_paths(Path(context["out"]), folder.name, settings["format"])
    output = Path(paths["output"])
    resumed = _make_output(output, context)
    # Left by a kill while they were written; they may be large.
    for stale in Path(paths["data"]).parent.glob(f".{folder.name}.*.tmp"):
        stale.unlink()
    parts = [
        Part(part["task"], known["share"], tuple(part["files"]), tuple(known["sha256"]), 0)
        for part, known in zip(context["parts"], settings["data"], strict=True)
    ]
    try:
        write_mixture(Path(paths["data"]), parts, settings["format"])
    except ValueError as error:
        raise CommandError(str(error)) from None
    if "rule" in settings:
        write_json(Path(paths["weights"]), settings["rule"])
    else:
        # Where they are from goes with them, and changes no result.
        TaskWeights(**context.get("weights", {"weights": settings["weights"]})).save(paths["weights"])
    _run(fill(settings["command"], paths | {"port": _free_port()}), context, folder, report)
    if not any(output.iterdir()):
        raise CommandError(f"the command ended well but left {{output}} empty: {output}")
    # The command may have moved it.
    Path(paths["data"]).unlink(missing_ok=True)
    result = {"output": f"outputs/{folder.name}", "samples": context["samples"], "steps": context["steps"]}
    return result | resumed


def evaluate(settings: Mapping[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Scores a model on one task; returns the score and the items.

    Args:
        settings: as `ProjectRecipe` makes them, with "needs" {run: folder} and "context"; of a model that
            exists "context" has the folder and "needs" nothing.
        folder: the run's folder.
        report: called with the work done.

    Raises:
        CommandError: the model is gone, the data or a model that exists has changed since the plan or while
            the command ran, the command failed, or wrote no score, or that of fewer items than records.
    """
    context = settings["context"]
    trained = next(iter(settings["needs"].items()), None)
    model = context["model"] if trained is None else Path(trained[1]).name
    paths = evaluate_paths(Path(context["out"]), folder.name, model, context["file"])
    if not Path(paths["model"]).is_dir():
        advice = f"; remove {trained[1]} to train it again" if trained else ""
        raise CommandError(
            f"the model of {trained[0] if trained else 'equal'!r} is gone: {paths['model']}{advice}"
        )
    _check_unchanged(settings)
    output = Path(paths["output"])
    resumes = bool(context.get("resume")) and _is_of_the_model(output, settings)
    resumed = _make_output(output, {"resume": resumes})
    if context.get("resume"):
        write_json(output / MODEL_FILE, settings.get("made_from"))
    _run(fill(settings["command"], paths | {"port": _free_port()}), context, folder, report)
    _check_unchanged(settings)
    found = read_score(Path(paths["scores"]), context.get("metric"))
    if "data" in placeholders(settings["command"]):
        _check_all_scored(found["items"], context)
    return found | resumed


def _check_all_scored(items: list[float] | None, context: Mapping[str, Any]) -> None:
    """Passes where there are no fewer items than records in the file, as of a trial or of one process."""
    records = context.get("items")
    if items is not None and records is not None and len(items) < records:
        raise CommandError(
            f"expected a score on each of the {records} records of {context['file']}, got one on "
            f"{len(items)} items in {{scores}}; score them all, and where several processes share them let "
            "one process write the score of all, as each takes the place of another's"
        )


def _is_of_the_model(output: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the answers in a folder are of this very model: one that is trained again has the same name."""
    try:
        known = json.loads((output / MODEL_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return bool(known == settings.get("made_from"))


def _check_unchanged(settings: Mapping[str, Any]) -> None:
    """Passes where the data, and a model that exists, are those of the plan."""
    context = settings["context"]
    try:
        if settings["data"] is not None:
            check_unchanged(context["file"], settings["data"])
        # Absent in a job that an older cotbal has submitted.
        if context.get("model_files") is not None:
            check_model(context["model"], context["model_files"])
    except ValueError as error:
        raise CommandError(str(error)) from None


def train_paths(out: Path, key: str, form: str) -> dict[str, str]:
    """The late placeholders of a training with this key, but for the port."""
    return {
        "data": str(out / "data" / "mixtures" / f"{key}.{form}"),
        "output": str(out / "outputs" / key),
        "weights": str(out / "runs" / key / "weights.json"),
    }


def evaluate_paths(out: Path, key: str, trained: str, file: str | None) -> dict[str, str]:
    """The late placeholders of an evaluation with this key of the training with that one, or of a folder."""
    return {
        "model": str(out / "outputs" / trained),
        "scores": str(out / "runs" / key / "scores.json"),
        "output": str(out / "outputs" / key),
        "data": file or "",
    }


def read_score(path: Path, metric: str | None = None) -> dict[str, Any]:
    """The score that an evaluation command wrote: {"score": number, "items": [number, ...] or None}.

    Where the file has them also "clusters", a whole number per item. Items that are not what they should be
    are told here, and not after the last training.

    Args:
        path: the file.
        metric: that of the task; a file of `cotbal score` tells its own, which must not be another.

    Raises:
        CommandError: there is no such file, something else in it, or the score of another metric.
    """
    expected = f'expected {{"score": number, "items": [numbers]?}} in {path}'
    try:
        # Editors on Windows put a mark in front.
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=distinct_keys)
    except FileNotFoundError:
        raise CommandError(f"the command ended well but wrote no score; {expected}") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{expected}, got no JSON: {error}") from None
    score = content.get("score") if isinstance(content, dict) else None
    if not _is_number(score):
        raise CommandError(f"{expected}, got {json.dumps(content)[:80]}")
    if metric in METRICS and content.get("metric", metric) != metric:
        raise CommandError(
            f"expected a score by {metric}, the task's metric in the YAML, in {path}, got one by "
            f"{content['metric']}; give `cotbal score` --metric {metric}, or change the YAML"
        )
    items, clusters = content.get("items"), content.get("clusters")
    if items is not None and not (isinstance(items, list) and items and all(map(_is_number, items))):
        raise CommandError(f"{expected}, got items that are no list of numbers: {json.dumps(items)[:80]}")
    if clusters is not None and not (isinstance(clusters, list) and len(clusters) == len(items or [])):
        raise CommandError(f"{expected}, got clusters that are not one number per item")
    if clusters is not None and not all(type(number) is int for number in clusters):
        raise CommandError(f"{expected}, got clusters that are no whole numbers: {json.dumps(clusters)[:80]}")
    if items is None:
        return {"score": float(score), "items": None}
    mean = fmean(items)
    if abs(mean - score) > ITEM_TOLERANCE * max(1.0, abs(score)):
        raise CommandError(
            f"{expected}, got the score {score:.6g} and items whose mean is {mean:.6g}; give the items that "
            "the score is the mean of, or none"
        )
    found = {"score": float(score), "items": [float(item) for item in items]}
    return found if clusters is None else found | {"clusters": clusters}


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and is_finite(value)


def _make_output(output: Path, context: Mapping[str, Any]) -> dict[str, bool]:
    """Makes {output}; what a result says in addition where the run may go on from what lies there.

    Raises:
        CommandError: an earlier try's files stay, of which the command would take some for its own.
    """
    if not context.get("resume"):
        shutil.rmtree(output, ignore_errors=True)
        if left := [path for path in output.rglob("*") if path.is_file() and not is_removed(path)]:
            raise CommandError(
                f"expected {{output}} empty, got what an earlier try has left and what cannot be removed, "
                f"such as {left[0]}; remove {output}, perhaps as the user that a container writes as"
            )
    output.mkdir(parents=True, exist_ok=True)
    return {"resumed": True} if any(path.name != MODEL_FILE for path in output.iterdir()) else {}


def _run(command: str, context: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Runs a command or a function to its end; whatever it has started ends with it."""
    # Weights that the user's shell names would be trained on wherever the command has no {weights}.
    os.environ.pop("COTBAL_WEIGHTS", None)
    if is_function(command):
        call(command, folder, Path(context["folder"]), report)
        return
    print(f"$ {command}", flush=True)
    # The worker's own is the driver's; the command may be another Python.
    environment = {"PYTHONPATH": context["python_path"]}
    start = log_size(folder / LOG_FILE)
    process = processes.start(command, folder, environment, Path(context["folder"]))
    looked = time.monotonic()
    try:
        while (status := process.poll()) is None:
            time.sleep(POLL_SECONDS)
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                report(work_done(folder / LOG_FILE, context, start))
    finally:
        processes.end(folder)
        process.wait()
    if status:
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        log = _without_launcher(_tail(folder / LOG_FILE).splitlines())[-LOG_LINES:]
        raise CommandError(
            "\n".join([f"the command ended with {how}; the end of {folder / LOG_FILE}:", *log])
        )


def _without_launcher(lines: list[str]) -> list[str]:
    """The lines without torchrun's own report, which says that a process failed and not why."""
    told = max((place for place, line in enumerate(lines) if _LAUNCHER_ERROR in line), default=0)
    starts = [place for place, line in enumerate(lines[:told]) if line.startswith("Traceback ")]
    # Its error is followed by a table between lines of =.
    ends = [place for place, line in enumerate(lines[told:], told) if line and not line.strip("=")]
    return lines[: starts[-1]] + lines[ends[1] + 1 :] if starts and len(ends) > 1 else lines


def log_size(log: Path) -> int:
    """The bytes that are in a log, those of an earlier try."""
    return log.stat().st_size if log.exists() else 0


def work_done(log: Path, context: Mapping[str, Any], start: int = 0) -> int:
    """The work done as far as the log's last progress bar over all steps tells, such as "17/120 [".

    Args:
        log: the run's log, which goes on after an earlier try's.
        context: with the "steps" of the run and its "work".
        start: where this try's part of the log begins.
    """
    steps: int | None = context.get("steps")
    if steps is None:
        return 0
    seen = re.findall(rf"\b(\d+)/{steps} \[", _tail(log, start))
    return int(context["work"]) * min(int(seen[-1]), steps) // steps if seen else 0


def _tail(log: Path, start: int = 0) -> str:
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            # A log that is shorter than it was has begun anew.
            stream.seek(max(start if start <= size else 0, size - LOG_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
