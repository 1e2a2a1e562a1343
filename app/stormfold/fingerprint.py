"""Alertmanager's fingerprint of a label set: FNV-1a, 64 bit."""

from collections.abc import Mapping

from fnv_c import fnv1a_64

_SEPARATOR = b"\xff"


def fingerprint(labels: Mapping[str, str]) -> str:
    """16 lower-case hex digits, the same as Alertmanager shows for these labels.

    Hashed are names and values in the order of names, each followed by a 0xFF byte, which no UTF-8 contains.
    """
    texts: list[bytes] = []
    # Strings sort by code point, which is the order of their UTF-8 bytes. Sorting names alone is cheaper than pairs.
    for name in sorted(labels):
        texts += name.encode(), labels[name].encode()
    hashed = _SEPARATOR.join([*texts, b""])
    return f"{fnv1a_64(hashed):016x}"
