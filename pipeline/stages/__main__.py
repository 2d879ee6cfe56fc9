"""The entry point of all stages: `python -m pipeline.stages NAME [OF]`."""

import sys

from pipeline.base.console import exit_codes
from pipeline.stages.programs import run_stage

if __name__ == "__main__":
    with exit_codes():
        run_stage(*sys.argv[1:])
