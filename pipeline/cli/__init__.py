"""The command `everystep`: what readers of a release run, and what its builders look up.

The top floor: the only room that sees both `pipeline` and `trainer`. A module has the commands of one purpose; each
command loads what it needs when it runs, so verifying and pulling need neither torch nor DVC. Results go to stdout,
messages to stderr; exit codes: 0 fine, 1 the bytes differ, 2 misuse, 4 a link in the place of a file of a release
(docs/audit.md). Text from outside goes through `printable` before it reaches a terminal.
"""
