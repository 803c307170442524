"""The data of a project: what is in each file, the mini subsets, and the file that a run trains on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path

from cotbal.estimate.recipe import FULL, MINI, MODES, QUARTER
from cotbal.files import check_outputs, slug, write_json
from cotbal.json_records import read_records, record_file, with_task
from cotbal.project.config import Project
from cotbal.project.subsets import largest_chosen, sample_numbers, subset_size

SCHEMA_VERSION = 1
BLOCK = 1 << 20
# Characters of keys in a message.
SHOWN = 80
# In nanoseconds.
SECOND = 10**9
# What every command of an estimate writes into its folder, beside the folders of runs.
OF_A_SEED = ("scores.csv", "items.json", "weights.json")
WRITTEN = ("data/index.json", "plan.json", *OF_A_SEED, "finals.json", "state.json")


@dataclass(frozen=True)
class DataFile:
    """A file and what is in it.

    Attributes:
        path: absolute.
        size: bytes.
        changed: modification time in nanoseconds.
        sha256: of its bytes.
        records: how many it holds, None for a validation file that is neither a JSON array nor JSONL.
    """

    path: str
    size: int
    changed: int
    sha256: str
    records: int | None


@dataclass(frozen=True)
class Part:
    """What a run takes of a task.

    Attributes:
        task: the task.
        share: "mini", "full" or a fraction such as "1/4".
        files: the files, absolute.
        sha256: of each file.
        records: how many in all.
    """

    task: str
    share: str
    files: tuple[str, ...]
    sha256: tuple[str, ...]
    records: int


@dataclass(frozen=True)
class Data:
    """All data of a project.

    Attributes:
        full: the full set of each task, fixed ones included.
        mini: the mini subset of each weighted task, by seed and task.
        validation: the validation file of each task that has one.
        shares: likewise for larger subsets, by share such as "1/4"; the mini subset lies inside.
        test: the test files by task and test set.
    """

    full: dict[str, Part]
    mini: dict[tuple[int, str], Part]
    validation: dict[str, DataFile]
    shares: dict[str, dict[tuple[int, str], Part]] = field(default_factory=dict)
    test: dict[tuple[str, str], DataFile] = field(default_factory=dict)


def prepare(project: Project, shares: Iterable[str] = ()) -> Data:
    """Looks at every data file and writes the mini subsets that do not exist yet.

    A file that has not changed since is not read again. Subsets are named by the hash of what they come from,
    are written whole or not at all, and never change.

    Args:
        project: the file.
        shares: of each task, such as "1/4", that are asked for beside those of the project's mode.

    Raises:
        OSError: a file cannot be read, or the disk cannot take one.
        ValueError: a file does not hold records; the message has the file and the record. Or it lies where
            the output folder has a file of its own, that folder has files of another origin, a validation or
            test file has the bytes of a training file, or a probe would train on no more of its task than the
            mini run does.
    """
    written = [*WRITTEN, *(f"seed-{seed}/{name}" for seed in project.seeds for name in OF_A_SEED)]
    check_outputs([("output", project.out / name) for name in written], data_files(project))
    _check_own(project.out, written)
    index = _Index(project.out / "data" / "index.json")
    full, validation, test = {}, {}, {}
    for name, task in project.tasks.items():
        found = [index.look_at(_absolute(project, file), records=True) for file in task.files]
        full[name] = _part(name, "full", found)
        if task.validation is not None:
            validation[name] = index.look_at(_absolute(project, task.validation), records=False)
        for of_set, file in task.tests.items():
            test[name, of_set] = index.look_at(_absolute(project, file), records=False)
    _check_held_out(full, validation, test)
    _check_probes(project, full)
    ratios = {MINI: project.ratio} | {share: Fraction(share) for share in shares}
    if project.mode == "cheap":
        ratios[QUARTER] = Fraction(QUARTER)
    subsets: dict[str, dict[tuple[int, str], Part]] = {share: {} for share in ratios}
    for share, ratio in ratios.items():
        for seed in project.seeds:
            for name in project.weighted:
                path = _write_subset(project, seed, full[name], ratio)
                subsets[share][seed, name] = _part(name, share, [index.look_at(path, records=True)])
    return Data(full, subsets.pop(MINI), validation, subsets, test)


def _check_own(out: Path, names: Iterable[str]) -> None:
    """Passes where the folder is one of an estimate, by its index or its plan, or has none of the files."""
    for name, keys in (("data/index.json", {"files"}), ("plan.json", {"runs", "totals"})):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if json.loads((out / name).read_text(encoding="utf-8")).keys() >= {"schema_version", *keys}:
                return
    if there := [name for name in names if (out / name).exists()]:
        raise ValueError(
            f"output: expected a new folder, or one of an estimate with its plan.json, got {out} with a "
            f"{there[0]} of another origin; move that away, or name another folder"
        )


def data_files(project: Project) -> list[Path]:
    """Every file of a project's tasks, absolute."""
    return [
        _absolute(project, file)
        for task in project.tasks.values()
        for file in (*task.files, *filter(None, [task.validation]), *task.tests.values())
    ]


def _check_held_out(
    full: Mapping[str, Part], validation: Mapping[str, DataFile], test: Mapping[tuple[str, str], DataFile]
) -> None:
    """Passes where no model is scored on a file that is trained on: a copy and a link are that file too."""
    trained = {
        digest: f"{file}, in train of {task}"
        for task, part in full.items()
        for file, digest in zip(part.files, part.sha256, strict=True)
    }
    scored = {f"tasks.{task}: validation": file for task, file in validation.items()}
    scored |= {f"tasks.{task}: test{name and '.'}{name}": file for (task, name), file in test.items()}
    for where, file in scored.items():
        if file.sha256 in trained:
            raise ValueError(
                f"{where}: expected a file that no task trains on, got {file.path}, the bytes of "
                f"{trained[file.sha256]}; hold some of its records out in a file of their own"
            )


def _check_probes(project: Project, full: Mapping[str, Part]) -> None:
    """Passes where each probe has more of its task than the mini run: their gain is a denominator."""
    share = MODES[project.mode].share
    if share is None:
        return
    for name in project.weighted:
        records = full[name].records
        mini = subset_size(records, project.ratio)
        if mini >= (records if share == FULL else subset_size(records, Fraction(share))):
            raise ValueError(
                f"tasks.{name}: expected more samples in its probe than in its mini subset, got {mini} of "
                f"{records} in both; give it more training data, a smaller mini_ratio, or a fixed weight"
            )


def write_mixture(path: Path, parts: Iterable[Part], form: str) -> Path:
    """Writes the training file of a run: the records of its parts, task after task, each with its task.

    Args:
        path: the file, written whole or not at all.
        parts: what the run trains on.
        form: "json" or "jsonl".

    Raises:
        OSError: as of `prepare`.
        ValueError: a file is not the one that its part has the hash of.
    """
    return _write(path, chain.from_iterable(map(_texts, parts)), form)


def _write(path: Path, texts: Iterable[str], form: str) -> Path:
    with record_file(path, form) as file:
        for text in texts:
            file.add(text)
        file.close()
    return path


def _write_subset(project: Project, seed: int, full: Part, ratio: Fraction) -> Path:
    """The subset of a task that has this share of it, written unless it exists."""
    chosen = subset_size(full.records, ratio)
    origin = json.dumps([SCHEMA_VERSION, seed, full.task, chosen, full.sha256])
    name = f"{slug(full.task)}-{hashlib.sha256(origin.encode()).hexdigest()[:16]}.json"
    path = project.out.resolve() / "data" / "mini" / name
    if not path.exists():
        limit = largest_chosen(seed, full.task, full.records, chosen)
        number = sample_numbers(seed, full.task)
        texts = enumerate(_texts(full))
        _write(path, (text for place, text in texts if number(place) <= limit), "json")
    return path


def _texts(part: Part) -> Iterator[str]:
    """The records of a part, each with its task on one line."""
    for file, expected in zip(part.files, part.sha256, strict=True):
        digest = hashlib.sha256()
        for number, record in enumerate(read_records(file, digest), start=1):
            try:
                text = with_task(record, part.task)
            except ValueError as error:
                raise ValueError(f"{file}, record {number}: {error}") from error
            yield text
        check_unchanged(file, expected, digest.hexdigest())


def check_unchanged(file: str, expected: str, found: str | None = None) -> None:
    """Passes where a file is still the one that the runs were planned with.

    Args:
        file: its path.
        expected: its SHA-256 then.
        found: that of now; None: it is read.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is another one.
    """
    found = found or _sha256(Path(file))
    if found != expected:
        raise ValueError(
            f"{file}: expected the file of the plan, SHA-256 {expected[:12]}..., got {found[:12]}...: it has "
            "changed since. Start again, and what depends on it is run with it as it is now; or put the "
            "earlier file back"
        )


def fingerprint(folder: Path, precision: int = 1) -> str:
    """What tells a model from another one: a hash of its files' names, sizes and times.

    Args:
        folder: the model.
        precision: of the times, in nanoseconds; a disk may show other machines less than it shows one.

    Raises:
        ValueError: there is no such folder, or nothing in it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ValueError(f"equal_model: expected the folder of a model, got {folder}")
    states = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    known = [(name, state.st_size, state.st_mtime_ns // precision) for name, state in states]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def check_model(folder: str, expected: str) -> None:
    """Passes where a model that exists is still the one that the runs were planned with.

    Args:
        folder: the model.
        expected: its fingerprint then, of times in whole seconds.

    Raises:
        ValueError: it is another one.
    """
    if fingerprint(Path(folder), SECOND) != expected:
        raise ValueError(
            f"{folder}: expected the model of the plan, but a file in it has changed since, or is new. Wait "
            "until its training is over, let no command write into it, and start again"
        )


def _part(task: str, share: str, found: Sequence[DataFile]) -> Part:
    files, digests = tuple(file.path for file in found), tuple(file.sha256 for file in found)
    return Part(task, share, files, digests, sum(file.records or 0 for file in found))


def _absolute(project: Project, file: str) -> Path:
    return Path(os.path.abspath(project.folder / file))


class _Index:
    """What is known of files that have been read, by path, on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, DataFile] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema_version"] == SCHEMA_VERSION:
                self._files = {file["path"]: DataFile(**file) for file in content["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            # It only saves time: what cannot be read is found out again.
            pass

    def look_at(self, path: Path, *, records: bool) -> DataFile:
        """The facts about a file; it is read where it is new or has changed.

        Args:
            path: absolute.
            records: whether it must hold records.
        """
        state = path.stat()
        known = self._files.get(str(path))
        same = known is not None and (known.size, known.changed) == (state.st_size, state.st_mtime_ns)
        if known is not None and same and not (records and known.records is None):
            return known
        digest, count = _read_through(path, records)
        found = DataFile(str(path), state.st_size, state.st_mtime_ns, digest, count)
        self._files[str(path)] = found
        files = [asdict(file) for file in self._files.values()]
        # It only saves time: a copy of a project on a disk that is read-only has its status and its report.
        with contextlib.suppress(OSError):
            write_json(self._path, {"schema_version": SCHEMA_VERSION, "files": files})
        return found


def _read_through(path: Path, records: bool) -> tuple[str, int | None]:
    digest = hashlib.sha256()
    count, keys = 0, ""
    try:
        for record in read_records(path, digest):
            keys = keys if count else ", ".join(record.content)
            count += 1
        # As publishers have their questions: {"questions": [...]}.
        if count == 1 and path.suffix.lower() != ".jsonl" and not _is_array(path):
            raise ValueError(
                f"{path}: expected a JSON array of records, or JSONL by that ending, got one object with "
                f"{keys[:SHOWN] or 'nothing'}; write the list alone"
            )
    except ValueError:
        if records:
            raise
        return _sha256(path), None
    return digest.hexdigest(), count


def _is_array(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as stream:
        return stream.read(BLOCK).lstrip()[:1] == "["


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
