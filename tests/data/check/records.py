"""Records to check."""

import json
from pathlib import Path
from typing import Any

from cotbal.data.check.run import Check, Source
from cotbal.data.check.schema import Settings
from cotbal.data.inputs import Inputs


def record(*turns: str, image: str | None = None, **fields: Any) -> dict[str, Any]:
    """A conversation; `<image>` stands before the first question where there is a picture."""
    values = [("<image>\n" if image and not place else "") + text for place, text in enumerate(turns)]
    said = [{"from": ("human", "gpt")[place % 2], "value": value} for place, value in enumerate(values)]
    picture = {} if image is None else {"image": image}
    return {"id": "r", **picture, "conversations": said, "task": "GQA"} | fields


def question(id: Any, text: str, image: str | None = None, **fields: Any) -> dict[str, Any]:
    """A held-out question."""
    picture = {} if image is None else {"image": image}
    return {"question_id": id, **picture, "text": text, "answer": "yes", "task": "GQA"} | fields


def write(path: Path, records: list[Any]) -> Path:
    """A file by its suffix."""
    if path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def check(
    folder: Path, splits: dict[str, list[Any]], settings: Settings = Settings(), **options: Any
) -> Check:
    """The finished check of records by split."""
    sources = [Source(name, write(folder / f"{name}.json", records)) for name, records in splits.items()]
    found = Check(sources, Inputs(), settings, **options)
    found.run()
    return found


def findings(found: Check) -> list[tuple[str, str, int, str]]:
    """Kind, file's name, record and field of each finding."""
    rows = map(json.loads, found.findings.lines())
    return [(row["kind"], Path(row["file"]).stem, row["record"], row["field"]) for row in rows]
