"""`python -m pipeline` is the same as `cave`."""

from pipeline.cli import main

main()
