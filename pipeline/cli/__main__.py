"""`python -m pipeline.cli`: the command `everystep`, by the interpreter that runs it."""

from pipeline.cli.program import main

if __name__ == "__main__":
    main()
