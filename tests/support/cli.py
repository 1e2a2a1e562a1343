"""The command line in a process of its own."""

import asyncio
import os
import subprocess
import sys

from stormfold.settings import Settings
from tests.support.servers import environment


async def stormfold(settings: Settings, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a stormfold command against the test's servers, without a terminal."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "stormfold", *words],
        env=os.environ | environment(settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
