"""The frame of `demo` and `up`: Ctrl-C in the first instant."""

import subprocess
import sys

STRUCK_AT_BIRTH = """
import asyncio, os, signal, weakref
from app.local import stack

add, begun = weakref.WeakSet.add, 0

def struck(self, item):
    global begun
    if self is asyncio.tasks._all_tasks:
        begun += 1
        if begun == 2:
            os.kill(os.getpid(), signal.SIGINT)
    add(self, item)

async def main():
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)

weakref.WeakSet.add = struck
with stack.interruptible():
    try:
        stack.run(main())
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_interrupted_at_birth() -> None:
    """Ctrl-C while what is to be done becomes a task, before the event loop knows of it: it is forgotten by nobody."""
    done = subprocess.run(
        [sys.executable, "-c", STRUCK_AT_BIRTH], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
