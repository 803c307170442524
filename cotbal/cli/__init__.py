"""The command line `cotbal`, one file per verb."""

import io
import sys


def main() -> None:
    """Run the command line; without its packages, say which extra to install and exit with 2."""
    try:
        from cotbal.cli.main import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("typer", "rich"):
            raise
        print(f'cotbal: {package} is not installed; pip install "path/to/cotbal[cli]"', file=sys.stderr)
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the terminal's encoding lacks is shown as its number: no verb fails at it with its work done.
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="cotbal")
