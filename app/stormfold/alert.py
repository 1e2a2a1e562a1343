"""An alert as the formats produce it: the structure is checked, labels and annotations are still raw JSON.

Alerts repeat, so `series` decodes labels and annotations only once and remembers the result by their raw bytes.
"""

import msgspec

from stormfold.resource import Resource


class Alert(msgspec.Struct, frozen=True, gc=False):
    """One alert of a record."""

    labels: bytes
    """A JSON object, for `decoding.decode_labels`."""
    annotations: bytes = b"{}"
    """A JSON object, for `decoding.decode_annotations`."""
    resolved: bool = False
    fingerprint: str | None = None
    """The one that the alert brings, if it is 16 lower-case hex digits."""
    starts_at: int | None = None
    """When it began (ms since the Unix epoch); None if the alert does not have a usable time."""
    about: Resource | None = None
    """The object that it is certainly about, if the format names one; otherwise the labels decide."""
    mapping: str | None = None
    """The mapping that read it; None if a built-in format did."""
    left_out: int = 0
    """Alerts that the sender left out of the record. Only the record's first alert has it."""
