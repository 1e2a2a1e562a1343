"""Event time without I/O: buckets of one gap, runs of buckets, clock cuts, and what is final at a watermark."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Windows:
    """The window settings, all in milliseconds. `slice` is a multiple of `gap` and at least twice it."""

    gap: int = 60_000
    grace: int = 10_000
    slice: int = 300_000
