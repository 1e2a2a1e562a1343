"""An alert as the formats produce it: the structure is checked, labels and annotations are still raw JSON.

Alerts repeat, so `series` decodes labels and annotations only once and remembers the result by their raw bytes.
"""

import msgspec


class Alert(msgspec.Struct, frozen=True, gc=False):
    """One alert of a record."""

    labels: bytes
    """A JSON object, for `decoding.decode_labels`."""
    annotations: bytes = b"{}"
    """A JSON object, for `decoding.decode_annotations`."""
    resolved: bool = False
    fingerprint: str | None = None
    """The one that the alert brings, if it is 16 lower-case hex digits."""
