"""Open transactions: records from the last stable offset of a partition on cannot be read until they end."""

from collections.abc import Mapping

REPORT_SECONDS = 15.0
"""Age from which on an open transaction is reported: most producers commit within seconds, and Kafka aborts a
transaction after `transaction.timeout.ms` of its producer, a minute by default."""
MAX_PARTITIONS = 8
"""Partitions to name."""


class OpenTransactions:
    """Partitions of a topic with an open transaction, and how long they have had it."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[int, float]] = {}

    def update(self, stable: Mapping[int, int], log_ends: Mapping[int, int], now: float) -> None:
        """Takes last stable offsets and ends of the log, requested in the opposite order; `now` is monotonic (s)."""
        before = self._since
        self._since = {
            partition: before[partition] if before.get(partition, (None,))[0] == offset else (offset, now)
            for partition, offset in stable.items()
            if log_ends.get(partition, offset) > offset
        }

    def old(self, now: float) -> dict[int, int]:
        """Partition → last stable offset, where this has not moved for `REPORT_SECONDS`."""
        return {p: offset for p, (offset, since) in self._since.items() if now - since >= REPORT_SECONDS}


def describe(topic: str, stable: Mapping[int, int]) -> tuple[str, str]:
    """Problem and hint for partitions with an open transaction, by their last stable offsets."""
    places = [f"{topic}-{partition} from offset {offset}" for partition, offset in sorted(stable.items())]
    more = f", and {len(places) - MAX_PARTITIONS} more" if len(places) > MAX_PARTITIONS else ""
    partition, offset = min(stable.items())
    return (
        f"open transactions of producers hold back {', '.join(places[:MAX_PARTITIONS])}{more}: nothing after these "
        "offsets can be read, and storms wait for it",
        "end them in the producer; if it is gone, `kafka-transactions.sh --bootstrap-server … abort "
        f"--topic {topic} --partition {partition} --start-offset {offset}`",
    )
