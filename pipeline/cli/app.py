"""The command line, `cave`: its groups of commands. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipeline import __version__
from pipeline.cli import repair, results, serve, study_commands, work
from pipeline.processes.signals import raise_if_interrupted
from pipeline.text import NARROW, terminal_width

__all__ = ["app", "run"]

app = typer.Typer(
    help="VAE, HVAE and Markovian HVAE of any depth, each bound taken apart term by term.",
    epilog="`dvc repro` runs the study of params.yaml; `cave COMMAND -h` explains a command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(work.app)
app.add_typer(results.app)
app.add_typer(serve.app)
app.add_typer(study_commands.app, name="study", rich_help_panel=work.START)
app.add_typer(repair.app)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"platos-cave {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def run() -> None:
    """Run the command that the arguments name."""
    narrow = terminal_width() < NARROW and any(not word.startswith("-") for word in sys.argv[1:])
    if narrow:
        app.rich_markup_mode = None  # whose tables cut the names of options
    # Typer would end on Ctrl-C by itself, without a word.
    from typer.main import get_command

    try:
        code = get_command(app)(
            standalone_mode=False, prog_name="cave", terminal_width=terminal_width() if narrow else None
        )
        raise_if_interrupted()
        sys.exit(code or 0)
    except Exception as error:
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        if not hasattr(error, "show"):
            raise
        error.show()  # the arguments are wrong
        sys.exit(getattr(error, "exit_code", 2))
