"""The command line: `cave`."""

from pipeline.cli.main import main

__all__ = ["main"]
