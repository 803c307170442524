"""Runs on disk: a folder per run, named by the hash of what determines it, with an atomic result."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from cotbal.files import write_json

SCHEMA_VERSION = 1
RESULT_FILE = "result.json"
LOG_FILE = "log.txt"
LOCK_TRIES = 4
# Packages whose version may change a trained number: a result of another version is not reused.
VERSIONED = ("cotbal", "torch", "transformers")


@dataclass(frozen=True)
class RunSpec:
    """One run: a function by name and the settings that determine its result completely.

    Attributes:
        name: what messages call it, unique in a plan ("seed 0/probe vqa").
        function: "package.module:function", called with `(settings, folder, report)`; returns a JSON object.
        settings: JSON, no key "needs", "context" or "made_from" (those are filled in at call time; the
            last as of `Record`).
        steps: amount of work, in the unit that the function reports; known before the start.
        needs: names of the runs that must have finished before. Their folders reach the function as
            `settings["needs"] = {last part of the name after "/": folder}`.
        context: JSON that reaches the function as `settings["context"]` but does not change the result, such
            as where the data lies.
    """

    name: str
    function: str
    settings: Mapping[str, Any]
    steps: int
    needs: tuple[str, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)


def run_key(spec: RunSpec, need_keys: Sequence[str] = ()) -> str:
    """The first 16 hex digits of the SHA-256 of (function, settings, keys of the needed runs).

    Args:
        spec: the run; its name, steps and context do not count.
        need_keys: the keys of `spec.needs`, in their order.

    Raises:
        ValueError: the settings hold NaN or infinity.
        TypeError: the settings are not JSON.
    """
    determining = [spec.function, dict(spec.settings), list(need_keys)]
    text = json.dumps(determining, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """The installed versions of the packages that a result depends on, without importing them."""
    found = {}
    for package in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@dataclass(frozen=True)
class Record:
    """A finished run as its result file holds it.

    Attributes:
        key: the run's key.
        result: what the function returned.
        started: Unix time in seconds.
        finished: Unix time in seconds.
        cpu_seconds: processor time of the worker during the run.
        made_from: when the needed runs had finished that it was made from, by their keys: which of several
            results under one key. None in a result of an older cotbal.
    """

    key: str
    result: dict[str, Any]
    started: float
    finished: float
    cpu_seconds: float
    made_from: Mapping[str, float] | None = None

    @property
    def resumed(self) -> bool:
        """Whether it went on from an earlier try, whose seconds are not among its own."""
        return bool(self.result.get("resumed"))

    def is_of(self, made_from: Mapping[str, float]) -> bool:
        """Whether it was made from these very results; of an older cotbal, whether none of them is later."""
        if self.made_from is None:
            return all(finished <= self.finished for finished in made_from.values())
        return self.made_from == made_from


@dataclass(frozen=True)
class Store:
    """The runs under one output folder: `out/runs/<key>/result.json`, written last."""

    out: Path
    versions: Mapping[str, str] = field(default_factory=versions)

    def folder(self, key: str) -> Path:
        """The folder of the run with this key; it may not exist yet."""
        return self.out / "runs" / key

    def record(self, key: str, made_from: Mapping[str, float] | None = None) -> Record | None:
        """The finished run, or None where the result is absent, damaged, of other versions or lost a file.

        Args:
            key: the run's key.
            made_from: when the runs that it needs have finished, by their keys; None: it needs none. A
                result that was made from others is None too: they were done again, and so must it be.

        Raises:
            OSError: the disk does not give out what it holds; whether the run is finished is not known.
        """
        folder = self.folder(key)
        try:
            content = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
            whole = content["schema_version"] == SCHEMA_VERSION and content["key"] == key
            if not whole or content["versions"] != dict(self.versions):
                return None
            if any((folder / name).stat().st_size != size for name, size in content["files"].items()):
                return None
            if not isinstance(content["result"], dict):
                return None
            started, finished, cpu = (float(content[name]) for name in ("started", "finished", "cpu_seconds"))
            record = Record(key, content["result"], started, finished, cpu, content.get("made_from"))
            return record if record.is_of(made_from or {}) else None
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, record: Record, *, function: str, settings: Mapping[str, Any], name: str = "") -> None:
        """Writes the result file atomically; from then on the run counts as finished.

        The name is for people alone.

        Raises:
            ValueError, TypeError: the result is not JSON, or holds NaN or infinity.
            OSError: the disk cannot take it.
        """
        content = {
            "schema_version": SCHEMA_VERSION,
            "key": record.key,
            "name": name,
            "function": function,
            "settings": dict(settings),
            "versions": dict(self.versions),
            "files": _file_sizes(self.folder(record.key)),
            "started": record.started,
            "finished": record.finished,
            "cpu_seconds": record.cpu_seconds,
            "made_from": record.made_from,
            "result": record.result,
        }
        write_json(self.folder(record.key) / RESULT_FILE, content)


def _file_sizes(folder: Path) -> dict[str, int]:
    """Sizes in bytes of the artefacts that a run left in its folder, so that a lost one is noticed."""
    own = {RESULT_FILE, LOG_FILE}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in own)
    kept = [path for path in files if not is_removed(path)]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in kept}


def is_removed(path: Path) -> bool:
    """Whether a file is none any more: NFS and FUSE keep one that is open, as a log that somebody follows."""
    return path.name.startswith((".nfs", ".fuse_hidden"))


def in_use(out: Path) -> bool:
    """Whether a process holds the output folder."""
    try:
        handle = os.open(out / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # No locks on this disk, so nobody holds one.
        return False
    finally:
        os.close(handle)
    return False


def _lock(handle: int) -> None:
    # `in_use` holds it for a moment too.
    for _ in range(LOCK_TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OutputInUseError(OSError):
    """Another process works in this output folder."""


@contextlib.contextmanager
def locked(out: Path, instead: str = "") -> Iterator[None]:
    """Holds the output folder for this process; the kernel lets go when the process ends, however it ends.

    Args:
        out: the folder.
        instead: what else the user can do where it is held, beside waiting and stopping the other process.

    Raises:
        OutputInUseError: another process holds it; the message names the process.
        OSError: the folder cannot be written to, or its disk has no locks.
    """
    out.mkdir(parents=True, exist_ok=True)
    handle = _held(out, instead)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        yield
    finally:
        # While it is held.
        with contextlib.suppress(OSError):
            (out / ".lock").unlink()
        os.close(handle)


def _held(out: Path, instead: str) -> int:
    while True:
        handle = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle)
            # Whoever held it may have removed it since it was opened.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(out / ".lock")):
                    return handle
            os.close(handle)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(handle)
            advice = f"Wait for it, stop it, or {instead}" if instead else "Wait for it or stop it"
            raise OutputInUseError(f"{out} is in use by {holder}. {advice}") from None
        except OSError as error:
            os.close(handle)
            raise OSError(
                f"{out}: expected a disk with file locks (flock), which keep two starts apart, got: "
                f"{error.strerror}; have it mounted with them (on Lustre the option flock), or name an "
                "output folder on another disk"
            ) from error
