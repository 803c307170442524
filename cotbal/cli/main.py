"""The root of the command line: the verbs, --version, and one line for each mistake of the user."""

import inspect
import sqlite3
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cotbal.cli.bench import bench
from cotbal.cli.collect import collect
from cotbal.cli.compare import compare
from cotbal.cli.data import app as data
from cotbal.cli.demo import demo
from cotbal.cli.doctor import doctor
from cotbal.cli.plan import plan
from cotbal.cli.prepare import app as prepare
from cotbal.cli.report import report
from cotbal.cli.run import run
from cotbal.cli.score import score
from cotbal.cli.status import status
from cotbal.cli.train import train
from cotbal.cli.weights import weights

# The extra that brings a package which a verb imports.
_EXTRAS = {
    "jinja2": "report",
    "matplotlib": "report",
    "numpy": "report",
    "pydantic": "estimate",
    "yaml": "estimate",
    "accelerate": "hf",
    "deepspeed": "deepspeed",
    "peft": "peft",
    "rich": "cli",
    "openpyxl": "collect",
    "PIL": "report",
    "pyarrow": "data",
    "tokenizers": "data",
    "safetensors": "demo",
    "sklearn": "demo",
    "submitit": "slurm",
    "transformers": "demo",
}


class _OneLineErrors(TyperGroup):
    """Turns the errors that a user can cause into one line on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; with --debug its errors keep their traceback."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # As in `cotbal plan estimate.yaml | head`; click ends it quietly.
            raise
        except (ValueError, TypeError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            _fail(_in_words(error))
        except sqlite3.Error as error:
            if ctx.params.get("debug"):
                raise
            _fail(
                f"the temporary database: {error}; expected room where temporary files go: set TMPDIR to a "
                "folder that has it"
            )
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package == "fcntl":
                _fail("expected Linux or macOS, got Windows, whose files cannot be locked so; use WSL there")
            if package not in _EXTRAS or ctx.params.get("debug"):
                raise
            _fail(f'{package} is not installed; pip install "path/to/cotbal[{_EXTRAS[package]}]"')


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error)


def _fail(message: str) -> None:
    typer.echo(f"cotbal: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        from cotbal import __version__

        typer.echo(f"cotbal {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Balance the tasks of visual instruction tuning: estimate task weights and show what they do.

    Example: cotbal demo
    """


app.command()(demo)
app.add_typer(prepare, name="prepare")
app.command()(score)
app.add_typer(data, name="data")
app.command()(collect)
app.command()(plan)
app.command()(run)
app.command()(status)
app.command()(weights)
app.command()(report)
app.command()(train)
app.command()(compare)
app.command()(bench)
app.command()(doctor)

# Typer keeps the line ends of a docstring, which are not those of the reader's terminal.
for verbs in (app, prepare, data):
    for verb in verbs.registered_commands:
        text = inspect.getdoc(verb.callback) or ""
        verb.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
