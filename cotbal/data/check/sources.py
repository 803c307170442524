"""Which files are checked, and which split each belongs to."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cotbal.data.check.run import Source
from cotbal.data.mix import MIX, MIXTURE, held_out_files, load_mix, load_prepared
from cotbal.data.task_folder import PREPARED
from cotbal.tasks import read_file_tasks

TRAIN = "train"


def find_sources(files: Iterable[Path], splits: Iterable[str]) -> list[Source]:
    """The files of each split, those of a split together.

    Args:
        files: to train on; or folders that `cotbal prepare` or `cotbal prepare mix` wrote, with their splits.
        splits: files of named splits, "validation=val.jsonl".

    Raises:
        ValueError: no file, another text, a folder without records, or one that is unfinished.
    """
    found = [source for path in files for source in _of(path)]
    for text in splits:
        name, equals, path = text.partition("=")
        if not name.strip() or not equals or not path:
            raise ValueError(f"--split: expected SPLIT=FILE, as in validation=val.jsonl, got {text!r}")
        found.append(Source(name.strip(), Path(path)))
    if not found:
        raise ValueError(
            "FILE: expected a file of records, got none; `cotbal data check --help` has examples"
        )
    names = list(dict.fromkeys(source.split for source in found))
    if len(names) > 255 or len(found) > 65535:
        raise ValueError(
            f"--split: expected at most 255 splits of 65,535 files, got {len(names)} of {len(found)}"
        )
    return sorted(found, key=lambda source: names.index(source.split))


def find_file_tasks(sources: Sequence[Source], words: Iterable[str]) -> dict[str, str]:
    """The task of each file whose records may name none.

    Args:
        sources: the files that are checked.
        words: FILE=TASK, where FILE is a path as it was given or a bare name.

    Raises:
        ValueError: another text, or a file that is not checked.
    """
    found = read_file_tasks(words, "--file-task")
    files = {name for source in sources for name in (str(source.path), source.path.name)}
    if absent := [file for file in found if file not in files]:
        raise ValueError(
            f"--file-task: expected one of the files that are checked ({', '.join(sorted(files)[:8])}), "
            f"got {absent[0]}"
        )
    return found


def _of(path: Path) -> Iterator[Source]:
    if not path.is_dir():
        yield Source(TRAIN, path)
    elif (path / MIX).is_file():
        content = load_mix(path)
        yield Source(TRAIN, path / next(name for name in content["files"] if name.startswith(f"{MIXTURE}.")))
        found = sorted(held_out_files(content).items(), key=lambda each: (each[1] == "test", each[0]))
        yield from (Source(split, path / name) for name, split in found)
    elif (path / PREPARED).is_file():
        for split, what in load_prepared(path).splits.items():
            name = "validation" if split == "val" else split.partition("_")[0]
            yield Source(name, path / what["file"])
    else:
        raise ValueError(
            f"{path}: expected a file of records, or a folder that `cotbal prepare` finished, with "
            f"{MIX} or {PREPARED}"
        )
