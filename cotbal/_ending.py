"""How a command ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

_HELP = {"-h", "--help", "--help_all"}


def ends(main: Callable[[], int | None]) -> NoReturn:
    """Ends the process with what `main` gives, quietly where the reader of a help is gone, as `| head`.

    Raises:
        SystemExit: always, unless `main` raises.
    """
    try:
        raise SystemExit(main())
    except BrokenPipeError:
        if not _HELP & set(sys.argv):
            raise
        raise SystemExit(0) from None
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # Python would try once more, tell of it and end with 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
