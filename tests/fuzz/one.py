"""One target, fuzzed by atheris: `python -m tests.fuzz.one TARGET [options of libFuzzer] [folders of inputs]`."""

import sys
import zlib

import atheris

with atheris.instrument_imports(include=["stormfold", "yaml"]):
    from tests.fuzz.bounds import bounded, bounded_memory
    from tests.fuzz.targets import TARGETS

TRACED = 32
"""One input in `TRACED` has its memory traced. A checksum of the input selects it, so that findings are repeatable."""


def main() -> None:
    """Fuzzes until the options of libFuzzer stop it; a failing input is written to `-artifact_prefix`."""
    target = TARGETS[sys.argv.pop(1)]

    @atheris.instrument_func
    def one(data: bytes) -> None:
        bounded(target.run, data)
        if zlib.crc32(data) % TRACED == 0:
            bounded_memory(target.run, data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
