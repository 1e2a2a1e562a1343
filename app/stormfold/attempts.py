"""Attempts that failed one after the other, as the log reports them."""

import time


class Attempts:
    """Counts failed attempts at one thing since it last succeeded."""

    def __init__(self) -> None:
        self.failed = 0
        self._since = 0.0

    def fail(self) -> dict[str, float]:
        """Counts a failed attempt; returns fields for the log: its number, and the seconds since the first failure."""
        if not self.failed:
            self._since = time.monotonic()
        self.failed += 1
        return {"attempt": self.failed, "duration_seconds": seconds_since(self._since)}

    def succeed(self) -> dict[str, float]:
        """Starts over; returns fields for the log: number and time of the failed attempts, if there are any."""
        failed, self.failed = self.failed, 0
        return {"failed_attempts": failed, "duration_seconds": seconds_since(self._since)} if failed else {}


def seconds_since(moment: float) -> float:
    """Seconds since a moment of the monotonic clock, rounded for the log."""
    return round(time.monotonic() - moment, 3)
