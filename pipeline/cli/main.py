"""The command line, `cave`: its groups of commands. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import sys

import typer

from pipeline.cli import results, serve, study_commands, work
from pipeline.processes.signals import raise_if_interrupted

__all__ = ["app", "run"]

app = typer.Typer(
    help="VAE, HVAE and Markovian HVAE of any depth, each bound taken apart term by term.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(work.app)
app.add_typer(results.app)
app.add_typer(serve.app)
app.add_typer(study_commands.app, name="study")


def run() -> None:
    """Run the command that the arguments name."""
    # Typer would end on Ctrl-C by itself, without a word.
    from typer.main import get_command

    try:
        code = get_command(app)(standalone_mode=False)
        raise_if_interrupted()
        sys.exit(code or 0)
    except Exception as error:
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        if not hasattr(error, "show"):
            raise
        error.show()  # the arguments are wrong
        sys.exit(getattr(error, "exit_code", 2))
