"""The frame of `demo` and `up`: Ctrl-C in the first instant."""

import subprocess
import sys

STRUCK_AT_BIRTH = """
import asyncio, os, signal, uvloop
from stormfold.local import stack

begun, new_event_loop = 0, uvloop.new_event_loop

def struck(loop, coroutine, **options):
    global begun
    begun += 1
    if begun == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return asyncio.Task(coroutine, loop=loop, **options)

def loop():
    made = new_event_loop()
    made.set_task_factory(struck)
    return made

uvloop.new_event_loop = loop
with stack.interruptible():
    try:
        stack.run(asyncio.sleep(60))
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_interrupted_at_birth() -> None:
    """Ctrl-C while what is to be done becomes a task, before the event loop knows of it: it is forgotten by nobody."""
    done = subprocess.run(
        [sys.executable, "-c", STRUCK_AT_BIRTH], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
