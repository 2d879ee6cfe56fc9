"""The two ways a command ends badly, and their exit codes.

Exit codes everywhere: 0 fine, 1 the bytes differ from what was promised, 2 misuse or bad input.
"""


class EverystepError(Exception):
    """Something a person can mend. The message names the file, the key and the fix."""

    exit_code = 2


class Differs(EverystepError):  # noqa: N818  # reads as the sentence that it is
    """Bytes, a digest or a replay differ from what a manifest promised."""

    exit_code = 1
