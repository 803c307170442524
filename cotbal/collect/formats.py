"""The formats by name; each module says which files of which version it reads."""

from types import ModuleType

from cotbal.collect import csv_scores, llava, lmms_eval, predictions, visatb, vlmevalkit
from cotbal.collect.source import Source

FORMATS: dict[str, ModuleType] = {
    "predictions": predictions,
    "lmms-eval": lmms_eval,
    "vlmevalkit": vlmevalkit,
    "llava": llava,
    "visatb": visatb,
    "csv": csv_scores,
}


def reader(source: Source) -> ModuleType:
    """Return the module that reads a source, whose options are checked; ValueError for an unknown format."""
    if source.format not in FORMATS:
        raise ValueError(f"{source}: format: expected one of {', '.join(FORMATS)}, got {source.format!r}")
    module = FORMATS[source.format]
    source.check_options(module.OPTIONS)
    return module
