"""Limits on the time and memory of an input, by its size."""

import gc
import time
import tracemalloc
from collections.abc import Callable

SECONDS, SECONDS_PER_BYTE = 0.25, 200e-6
"""CPU time: several times the time of instrumented code. Quadratic code exceeds it with a few kilobytes."""
BYTES, BYTES_PER_BYTE = 2_000_000, 2_000
"""Peak memory."""
TRIES = 3
"""Runs of an input, of which the fastest counts, because other processes disturb some."""


class TooMuch(Exception):
    """An input takes more time or memory than its size allows."""


def bounded(run: Callable[[bytes], None], data: bytes) -> None:
    """Runs a target on the input. Raises the errors of the target, and `TooMuch` for too much time."""
    for _ in range(TRIES):
        began = time.process_time()
        run(data)
        seconds = time.process_time() - began
        if seconds <= SECONDS + SECONDS_PER_BYTE * len(data):
            return
        gc.collect()
    raise TooMuch(f"{len(data)} bytes of input took {seconds:.2f} s")


def bounded_memory(run: Callable[[bytes], None], data: bytes) -> None:
    """Runs a target on the input, which takes ten times as long. Raises `TooMuch` for too much memory."""
    tracemalloc.start()
    try:
        run(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > BYTES + BYTES_PER_BYTE * len(data):
        raise TooMuch(f"{len(data)} bytes of input took {peak:,} bytes of memory")
