"""The command line: `cave`."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Prepare the process and run the command line."""
    from pipeline.startup import prepare_process

    prepare_process()  # before other modules of what may be the wrong copy are imported
    from pipeline.cli.app import run
    from pipeline.processes.entry import run_main

    run_main(run)
