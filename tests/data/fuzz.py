"""Coverage-guided fuzzing of a reader; no part of the tests, it needs the package atheris and takes minutes.

    pip install atheris
    python -m tests.data.fuzz gqa -max_total_time=120 corpus/

What may happen is a ValueError that names the file; with `check` and `lines`, record files of `cotbal data
check`, and `check-png` and the like, a picture of it, nothing but findings. Anything else is a crash.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cotbal.data", "cotbal.project", "cotbal.collect.records", "PIL"]):
    from PIL import Image

    from cotbal.data.chartqa import prepare_chartqa
    from cotbal.data.check.fix import write_fixed
    from cotbal.data.check.pictures import look
    from cotbal.data.check.run import Check, Source
    from cotbal.data.check.schema import Settings
    from cotbal.data.generic import prepare_generic
    from cotbal.data.gqa import prepare_gqa
    from cotbal.data.ocrvqa import prepare_ocrvqa
    from cotbal.data.refcoco import prepare_refcoco
    from cotbal.data.sharegpt import prepare_sharegpt
    from cotbal.data.sharegpt4v import prepare_sharegpt4v
    from cotbal.data.vqav2 import prepare_vqav2

from tests.data import publishers
from tests.data.check.records import question, record, write
from tests.data.reading import inputs, target

FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
COLUMNS = {"question": "q", "answer": "a"}


def files() -> dict[str, Path]:
    """Every publisher's files, and by reader the one that is changed."""
    publishers.vqav2(FOLDER / "vqav2", "train2014", [(1, 5, "a?", "b"), (2, 5, "c?", "d")])
    publishers.gqa(FOLDER / "gqa", "train", [("1", "5", "a?", "b"), ("2", "5", "c?", "d")])
    publishers.chartqa(FOLDER / "chartqa", "train", [("a.png", "q?", "1")], [("a.png", "r?", "2")])
    publishers.ocrvqa(FOLDER / "dataset.json", {"a": (1, [("q?", "a")]), "b": (2, [("q?", "a")])})
    refs = [publishers.ref(n, 1, "train", [(n, f"thing {n}")]) for n in range(2)]
    publishers.refcoco(FOLDER / "refcoco", refs, {1: (64, 48)}, {0: [1.0, 2, 3, 4], 1: [5, 6, 7, 8]})
    publishers.sharegpt4v(FOLDER / "c.json", [("a.jpg", "A."), ("b.jpg", "B.")])
    publishers.sharegpt(FOLDER / "s.json", [[("human", "a b"), ("gpt", "b c")]] * 2)
    publishers.word_tokenizer(FOLDER / "tokenizer.json")
    pictures = {
        name: FOLDER / "pictures" / f"a.{name}" for name in ("png", "jpg", "gif", "tiff", "webp", "bmp")
    }
    (FOLDER / "pictures").mkdir()
    for path in pictures.values():
        Image.effect_noise((20, 12), 60).convert("RGB").save(path)
    records = [record("a?", "[0.1, 0.2, 0.3, 0.4]", "b?", "c", image=f"a.{name}") for name in pictures]
    held_out = question(1, "a?", "a.png")
    for name in ("check.json", "check.jsonl"):
        write(FOLDER / name, [*records, records[0], held_out, held_out, record("d?", "e", task="T")])
    (FOLDER / "t.csv").write_text('q,a\n"x, y",z\nu,v\n')
    (FOLDER / "t.jsonl").write_text('{"q": "x", "a": "y"}\n{"q": "u", "a": "v"}\n')
    return {
        "vqav2": FOLDER / "vqav2" / "v2_OpenEnded_mscoco_train2014_questions.json",
        "vqav2-annotations": FOLDER / "vqav2" / "v2_mscoco_train2014_annotations.json",
        "gqa": FOLDER / "gqa" / "train_balanced_questions.json",
        "chartqa": FOLDER / "chartqa" / "train" / "train_human.json",
        "ocrvqa": FOLDER / "dataset.json",
        "refcoco": FOLDER / "refcoco" / "instances.json",
        "refcoco-refs": FOLDER / "refcoco" / "refs(unc).p",
        "sharegpt4v": FOLDER / "c.json",
        "sharegpt": FOLDER / "s.json",
        "csv": FOLDER / "t.csv",
        "jsonl": FOLDER / "t.jsonl",
        "check": FOLDER / "check.json",
        "lines": FOLDER / "check.jsonl",
        **{f"check-{name}": path for name, path in pictures.items()},
    }


def prepare(reader: str, path: Path) -> None:
    """Prepares the reader's source."""
    to, reading = target(FOLDER / "out"), inputs()
    if reader in ("check", "lines"):
        check(path)
    elif reader.startswith("check"):
        found = look(path)
        assert found.kind in (None, "broken-picture"), found
        assert bool(found.kind) == bool(found.got), found
    elif reader.startswith("vqav2"):
        prepare_vqav2(path.parent, to, reading)
    elif reader == "gqa":
        prepare_gqa(path.parent, to, reading)
    elif reader == "chartqa":
        prepare_chartqa(path.parents[1], to, reading)
    elif reader == "ocrvqa":
        prepare_ocrvqa(path, to, reading)
    elif reader.startswith("refcoco"):
        prepare_refcoco([path.parent], to, reading)
    elif reader == "sharegpt4v":
        prepare_sharegpt4v(path, to, reading, validation=0, test=0)
    elif reader == "sharegpt":
        prepare_sharegpt(path, to, reading, tokenizer=str(FOLDER), most_tokens=30)
    else:
        prepare_generic(path, to, reading, task="T", columns=COLUMNS)


def check(path: Path) -> None:
    """Checks the records, and mends them where they can be read to the end."""
    settings = Settings(tokenizer=str(FOLDER / "tokenizer.json"), most_tokens=700)
    found = Check([Source("train", path)], inputs(), settings, images=FOLDER / "pictures")
    try:
        found.run()
        json.dumps(found.content())
        for line in found.findings.lines():
            row = json.loads(line)
            whole = row["kind"] in ("file", "line", "repeated-record")
            assert all((row["file"], row["record"], row["field"] or whole, row["expected"], row["got"])), row
        if not (found.findings.counts["file"] or found.findings.counts["line"]):
            write_fixed(found, FOLDER / "fixed")
    except ValueError as error:
        raise RuntimeError(f"expected findings alone, got {error!r}") from error


def main() -> None:
    """Fuzzes the reader that is named first."""
    reader = sys.argv.pop(1)
    path = files()[reader]
    corpus = Path(tempfile.mkdtemp())
    shutil.copy(path, corpus / "whole")

    def one_input(data: bytes) -> None:
        path.write_bytes(data)
        try:
            prepare(reader, path)
        except ValueError as error:
            # What holds no valid record is told by the task instead.
            named = any(word in str(error) for word in (str(FOLDER), "records to train on", "stands twice"))
            if not named or type(error) is not ValueError:
                raise RuntimeError(f"not the documented error: {error!r}") from error

    atheris.Setup([*sys.argv, str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
