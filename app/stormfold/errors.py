"""Errors, sorted by what the caller should do: retry, dead-letter, or ask a person to act."""


class StormfoldError(Exception):
    """An error of stormfold. The docstring of the class is the default message."""

    def __init__(self, message: str | None = None, hint: str | None = None) -> None:
        super().__init__(message or self.__doc__)
        self.hint = hint
        """What a person can do about it, in one sentence."""


class Retry(StormfoldError):
    """A component is unavailable at the moment: back off and try again."""

    def __init__(self, message: str | None = None, hint: str | None = None, *, after: float | None = None) -> None:
        super().__init__(message, hint)
        self.after = after
        """Seconds to wait before the next try, if the other side named them."""


class DeadLetter(StormfoldError):
    """This record can never be processed: send it to the dead-letter queue with the reason, continue with the next."""


class ActionRequired(StormfoldError):
    """Configuration or permissions are wrong: retrying is useless until a person acts on the message."""


NOT_RUNNING_HINT = "start it there (`stormfold up` runs one), or correct the variable"
"""For a server that does not answer; the message has its address and the variable of it."""


def unexpected(error: Exception) -> Retry:
    """Wraps an error that only a defect can raise; trying again is better than a task that ended."""
    return Retry(f"unexpected {type(error).__name__}: {error}")
