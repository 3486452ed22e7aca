"""The entry point of every program of the package: signals, exit codes, and one line for each error."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable

from pipeline.environment import WorkerRole, started_by_dvc
from pipeline.errors import InputError, RunError, external_fault
from pipeline.faults import requested_faults
from pipeline.processes import signals
from pipeline.processes.output import safe_output
from pipeline.redaction import one_line, redacted

__all__ = ["EXIT_RESTART", "run_main"]

EXIT_RESTART = 75  # exit code of a worker that is to be started again, as one that a signal killed


def run_main(main: Callable[[], None]) -> None:
    """Run `main`; a fault becomes one line on stderr and exit code 2 (input), 1 (run) or 130 (Ctrl-C; 143, 129, 141).

    An unexpected error keeps its traceback, without the passwords in it: libraries print the address they failed at.
    """
    # What was imported stays: to search it for garbage takes imports a quarter of their time, an end half a second.
    gc.freeze()
    gc.enable()
    atexit.register(gc.freeze)
    safe_output()
    with signals.handle_signals():
        worker = WorkerRole.read() is not None
        if started_by_dvc() and not worker:  # DVC discards the outputs of a stage that outlives it
            signals.die_with_parent(os.getppid(), signal.SIGTERM)
        try:
            try:
                requested_faults()  # a wrong value of CAVE_FAULT stops the program before it does anything
                main()
            finally:
                sys.stdout.flush()  # here, where an error of the output is still reported
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            if not worker and signals.status() != 128 + signal.SIGPIPE:  # once for all workers, and not for a pipe
                print("stopped; run the same command to go on", file=sys.stderr)
            sys.stdout.flush()
            os._exit(signals.status())
        except Exception as error:
            if reason := external_fault(error):
                print(one_line(f"error: {reason}; `cave doctor` shows how to fix it"), file=sys.stderr)
                sys.exit(2)
            import traceback

            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
            sys.exit(1)
