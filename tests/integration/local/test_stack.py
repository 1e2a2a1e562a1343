"""Ctrl-C in the first instant of `demo` and `up`."""

import subprocess
import sys

INTERRUPTED_EARLY = """
import asyncio, os, signal, uvloop
from stormfold.local import stack

created, new_event_loop = 0, uvloop.new_event_loop

def interrupted_task(loop, coroutine, **options):
    global created
    created += 1
    if created == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return asyncio.Task(coroutine, loop=loop, **options)

def loop():
    made = new_event_loop()
    made.set_task_factory(interrupted_task)
    return made

uvloop.new_event_loop = loop
with stack.interruptible():
    try:
        stack.run(asyncio.sleep(60))
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_before_the_event_loop_has_a_task_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_EARLY], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
