"""Time and memory that an input may take: bounded by its size."""

import gc
import time
import tracemalloc
from collections.abc import Callable

SECONDS, SECONDS_PER_BYTE = 0.25, 200e-6
"""CPU time: several times what instrumented code takes. What is quadratic takes more with a few kilobytes."""
BYTES, BYTES_PER_BYTE = 2_000_000, 2_000
"""At once."""
TRIES = 3
"""The best one counts: others may have been disturbed."""


class TooMuch(Exception):
    """An input takes more time or memory than its size allows."""


def bounded(run: Callable[[bytes], None], data: bytes) -> None:
    """Runs it on the input; raises what it raises, or `TooMuch`."""
    for _ in range(TRIES):
        began = time.process_time()
        run(data)
        seconds = time.process_time() - began
        if seconds <= SECONDS + SECONDS_PER_BYTE * len(data):
            return
        gc.collect()
    raise TooMuch(f"{len(data)} bytes of input took {seconds:.2f} s")


def bounded_memory(run: Callable[[bytes], None], data: bytes) -> None:
    """The same for memory; it takes ten times as long."""
    tracemalloc.start()
    try:
        run(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > BYTES + BYTES_PER_BYTE * len(data):
        raise TooMuch(f"{len(data)} bytes of input took {peak:,} bytes of memory")
