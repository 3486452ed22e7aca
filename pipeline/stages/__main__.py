"""`python -m pipeline.stages NAME [ARGUMENT ...]`: run a stage, or one of its workers, as DVC and launchers do."""

import sys

from pipeline.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before other modules of what may be the wrong copy are imported
    from pipeline.processes.entry import run_main
    from pipeline.stages import STAGES, load_stage, main

    if set(sys.argv[1:2]) <= set(STAGES):
        load_stage(*sys.argv[1:2] or STAGES[:1])  # before `run_main`, which turns garbage collection on
    run_main(main)
