"""Calls functions in the network of another process."""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NEW_NETWORK = 0x4000_0000
"""CLONE_NEWNET."""


class Network:
    """Threads whose network is that of a process. Children that they start share it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._threads = ThreadPoolExecutor(8, initializer=self._enter)

    def __call__(self, function: Callable[[], T]) -> T:
        """Calls a function; returns its result."""
        return self._threads.submit(function).result()

    def close(self) -> None:
        """Ends the threads that are idle, and cancels calls that have not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _enter(self) -> None:
        # `os.setns` exists from Python 3.12.
        with Path(f"/proc/{self._pid}/ns/net").open() as namespace:
            library = ctypes.CDLL(None, use_errno=True)
            assert library.setns(namespace.fileno(), NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())
