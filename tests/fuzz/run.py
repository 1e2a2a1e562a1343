"""Fuzzes all targets in turns: `python -m tests.fuzz.run [--minutes 10] [TARGET ...]`.

Inputs with new coverage are kept in the user's cache as seeds of the next run. A failing input is added to `findings`,
which the tests replay, and ends the run.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.targets import TARGETS

FINDINGS = Path(__file__).parent / "findings"
"""Inputs that once failed, in a folder for each target."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stormfold" / "fuzz"
MAX_LENGTH = 8192
"""Largest input (bytes): enough to reveal quadratic time."""
LOG_LINES = 40
"""Lines at the end of the fuzzer's log that are printed."""
LIMITS = ("-timeout=60", "-rss_limit_mb=2048", f"-max_len={MAX_LENGTH}", "-print_final_stats=1")


def fuzz(target: str, corpus: Path, findings: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Fuzzes one target from its seeds and the folder `corpus`; a failing input is written to `findings`."""
    seeds = corpus / "seeds"
    for folder in (seeds, corpus / "found", findings):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[target].seeds()):
        (seeds / str(number)).write_bytes(seed)
    words = [target, *LIMITS, *options, f"-artifact_prefix={findings}/", str(corpus / "found"), str(seeds)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.one", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    if not any(findings.iterdir()):
        findings.rmdir()
    return ended


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 1 at the first target that fails, with its log and the folder of the input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="duration of all targets together")
    parser.add_argument("target", nargs="*", choices=[*TARGETS, []], help="the targets to fuzz; by default all")
    options = parser.parse_args(words)
    targets = options.target or list(TARGETS)
    for target in targets:
        seconds = max(1, round(options.minutes * 60 / len(targets)))
        print(f"{target}: {seconds} s", flush=True)
        ended = fuzz(target, CACHE / target, FINDINGS / target, f"-max_total_time={seconds}")
        print("\n".join(ended.stdout.splitlines()[-LOG_LINES:]), flush=True)
        if ended.returncode:
            sys.exit(f"{target} failed: the input is in {FINDINGS / target}; `pytest tests/fuzz` replays it")


if __name__ == "__main__":
    main()
