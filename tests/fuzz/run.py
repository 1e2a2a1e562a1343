"""All targets in turn for a while: `python -m tests.fuzz.run [--minutes 10] [TARGET ...]`.

Inputs that reach something new are kept in the user's cache, and begun with the next time. One that fails is put among
the `findings`, which the test run replays, and ends the run.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.targets import TARGETS

FINDINGS = Path(__file__).parent / "findings"
"""Inputs that failed once, in a folder for each target."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stormfold" / "fuzz"
LONGEST = 8192
"""Bytes of an input: enough for what is quadratic to show."""
TOLD = 40
"""Lines of what the fuzzer says at its end."""
LIMITS = ("-timeout=60", "-rss_limit_mb=2048", f"-max_len={LONGEST}", "-print_final_stats=1")


def fuzz(target: str, corpus: Path, findings: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Fuzzes one target, from its seeds and what the folder `corpus` has; a failing input is put into `findings`."""
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
    """Ends with 1 at the first target that fails, with what it said and the input's file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together")
    parser.add_argument("target", nargs="*", choices=[*TARGETS, []], help="which; all of them if none is named")
    asked = parser.parse_args(words)
    targets = asked.target or list(TARGETS)
    for target in targets:
        seconds = max(1, round(asked.minutes * 60 / len(targets)))
        print(f"{target}: {seconds} s", flush=True)
        ended = fuzz(target, CACHE / target, FINDINGS / target, f"-max_total_time={seconds}")
        print("\n".join(ended.stdout.splitlines()[-TOLD:]), flush=True)
        if ended.returncode:
            sys.exit(f"{target} failed: the input is in {FINDINGS / target}; `pytest tests/fuzz` replays it")


if __name__ == "__main__":
    main()
