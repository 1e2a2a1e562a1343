"""Errors, sorted by what the caller should do: retry, dead-letter, or stop and tell somebody."""


class StormfoldError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class Retry(StormfoldError):
    """A part is away for the moment: back off and try again."""

    def __init__(self, message: str | None = None, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after
        """Seconds that the other side asked to wait for, if it did."""


class DeadLetter(StormfoldError):
    """This record can never be processed: park it with the reason, go on with the next."""


class Stop(StormfoldError):
    """Configuration or permission is wrong: nothing will change until somebody acts on the message."""

    def __init__(self, message: str | None = None, advice: str | None = None) -> None:
        super().__init__(message)
        self.advice = advice
        """What to do about it, in one sentence."""
