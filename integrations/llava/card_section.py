"""The section of a model card that tells how its tasks were weighted: pure functions of what a run knows."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

_BEGIN, _END = "<!-- cotbal: begin -->", "<!-- cotbal: end -->"
_PACKAGES = ("cotbal", "torch", "transformers", "accelerate", "peft", "deepspeed")
# The Trainer's options whose values are secret.
_SECRETS = {"--hub_token", "--hub-token", "--push_to_hub_token", "--push-to-hub-token"}


@dataclass(frozen=True)
class TaskRow:
    """A task in the card: its records in the data, its tokens that were trained on, its weight."""

    name: str
    records: int
    tokens: int
    weight: float


def card_section(
    rows: Sequence[TaskRow], lines: Sequence[str], command: str, versions: Mapping[str, str]
) -> str:
    """The section in Markdown, between its two markers.

    Args:
        rows: one of the table for each task.
        lines: sentences below it.
        command: that started the run.
        versions: by package.
    """
    table = [f"| {_cell(row.name)} | {row.records:,} | {row.tokens:,} | {row.weight:.4f} |" for row in rows]
    return "\n".join(
        [
            _BEGIN,
            "## Task weights",
            "",
            "Trained by cotbal with a weight for each task, in the loss's numerator and denominator.",
            "",
            "| task | records | tokens trained on | weight |",
            "|---|---:|---:|---:|",
            *table,
            "",
            *(f"- {line}" for line in lines),
            "- " + ", ".join(f"{name} {number}" for name, number in versions.items()),
            "",
            "```bash",
            command,
            "```",
            _END,
        ]
    )


def with_section(text: str, section: str) -> str:
    """The card `text` with `section` in place of an earlier one, else at its end.

    Example:
        >>> card = with_section("# My model", card_section([], [], "train", {}))
        >>> card.startswith("# My model"), with_section(card, card_section([], [], "train", {})) == card
        (True, True)
    """
    earlier = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    if earlier.search(text):
        return earlier.sub(lambda _: section, text, count=1)
    return f"{text.rstrip()}\n\n{section}\n".lstrip()


def command_line(words: Sequence[str]) -> str:
    r"""A process's words as a shell would read them, an option to a line, without the values of secrets.

    Example:
        >>> print(command_line(["/usr/bin/python", "train.py", "--hub_token", "hf_x", "--name", "a b"]))
        python train.py \
            --hub_token '***' \
            --name 'a b'
    """
    line, is_secret = Path(words[0]).name, False
    for word in words[1:]:
        name, equals, _ = word.partition("=")
        hides = name in _SECRETS
        shown = "***" if is_secret else f"{name}=***" if hides and equals else word
        line += (" \\\n    " if word.startswith("--") and word != "--" else " ") + shlex.quote(shown)
        is_secret = hides and not equals
    return line


def versions(package: str) -> dict[str, str]:
    """The installed version of each package that had a part in the run; `package`, LLaVA's, comes last."""
    distributions = packages_distributions().get(package, [package])
    return {name: _version(name) for name in _PACKAGES} | {package: _version(distributions[0])}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
