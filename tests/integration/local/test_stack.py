"""Ctrl-C in the first instant of `demo` and `up`, and when something of the command hangs."""

import subprocess
import sys
from pathlib import Path

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


HANGING = """
import asyncio, os, signal, sys, threading, time
from pathlib import Path
from stormfold.local import ending, stack
from stormfold.local.redis import EmbeddedRedis

ending.WORKER_SECONDS, ending.FORCE_SECONDS = 0.1, 3.0
server = EmbeddedRedis(Path(sys.argv[1]))

async def hang():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    # Neither the event loop nor the interpreter ends before such a thread.
    await asyncio.to_thread(time.sleep, 600)

with stack.interruptible(), ending.ENDING.stopping([server], print, True):
    server.start()
    print(server.pid, flush=True)
    stack.run(hang())
"""


def test_a_command_that_hangs_at_its_end_stops_its_servers_and_exits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "The worker did not stop in time. Its unfinished work is repeated at the next start.\n"
    assert not Path("/proc", done.stdout.strip()).exists()
    assert "ready to exit, bye bye" in (tmp_path / "redis.log").read_text()
