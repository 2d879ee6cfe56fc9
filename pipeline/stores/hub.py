"""What the errors of the Hub's client mean: worth another attempt, refused, or gone. The client raises anything."""

from collections.abc import Iterator

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT_SECONDS = 3600


def status(error: BaseException | None) -> int | None:
    """The HTTP status of an answer of the Hub, in an error or its causes."""
    for cause in causes(error):
        found = getattr(getattr(cause, "response", None), "status_code", None)
        if found is not None:
            return int(found)
    return None


def is_transient(error: Exception) -> bool:
    """Whether the Hub was busy or unreachable. Its client calls errors of the network `TransportError`."""
    if status(error) in TRANSIENT:
        return True
    kinds = {kind.__name__ for cause in causes(error) for kind in type(cause).__mro__}
    return bool(kinds & {"TransportError", "ConnectionError", "TimeoutError", "JSONDecodeError"})


def asked_to_wait(error: Exception) -> float | None:
    """The seconds that a busy Hub asks to wait."""
    for cause in causes(error):
        answer = getattr(cause, "response", None)
        said = answer.headers.get("Retry-After", "") if answer is not None else ""
        if said.isdecimal():
            return float(min(int(said), LONGEST_WAIT_SECONDS))
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
