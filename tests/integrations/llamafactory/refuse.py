"""Command lines that are to be refused, in one process: their exit codes and what they say.

python -m tests.integrations.llamafactory.refuse '[["train", "my.yaml"], ...]'
"""

import contextlib
import io
import json
import sys

from cotbal.integrations.llamafactory.entry import main


def outcome(words: list[str]) -> tuple[int, str]:
    """The exit code and standard error; the name and the text of what it raised."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            return main(words), said.getvalue()
        except Exception as error:
            return 1, f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    outcomes = [outcome(words) for words in json.loads(sys.argv[1])]
    print(json.dumps(outcomes))
