"""Storms of keyed alerts, folded and closed in memory: what fold, Redis and close do, without any of them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

from stormfold.eventtime import PartitionPair
from stormfold.merge import LatePolicy, Merger, Record, Row, Rows, SourcePosition, as_member
from stormfold.storm import Detail, StormMetadata, fold_storm
from stormfold.window import Bucket, Rebuild, Windows, first_due, segments


class InMemoryFold:
    """Takes each partition's records in order; holds only what is still open at the watermark.

    Storms that begin before the rebuild's C are dropped: the log that was read may not have their beginning. Alerts
    before S (`since`, ms) are skipped like those before B: they were counted under other windows.
    """

    def __init__(
        self, windows: Windows, rebuild: Rebuild, max_fingerprints: int, max_resources: int, since: int | None = None
    ) -> None:
        self.alerts = 0
        """Folded so far."""
        self._windows = windows
        self._rebuild = rebuild
        self._floor = LatePolicy(skip_before=rebuild.begin if since is None else max(rebuild.begin, since))
        self._max_fingerprints = max_fingerprints
        self._max_resources = max_resources
        self._merger = Merger(windows)
        self._origins: dict[PartitionPair, SourcePosition] = {}
        self._rows: Rows = {}

    def fold(self, partition: int, records: Iterable[Record]) -> None:
        """Folds records of a keyed partition; what is no alert, or was folded before, is passed over."""
        merged = self._merger.merge_into(self._rows, {partition: records}, self._origins, self._floor)
        self._origins |= merged.origins
        self.alerts += merged.alerts

    def close(self, watermark: int) -> Iterator[StormMetadata]:
        """The storms that are final at the watermark (ms). Looks at all that is open."""
        for rows in self._by_group():
            if first_due(rows[0].start, rows[0].last, self._windows) <= watermark:
                yield from self._close_group(rows, watermark)

    def left(self, begin: int, end: int) -> int:
        """How many storms that begin from `begin` until before `end` (ms) are not final."""
        open_now = (
            part for rows in self._by_group() for part in segments(map(_bucket, rows), self._windows, self._rebuild)
        )
        return sum(begin <= part.start < end for part in open_now)

    def _by_group(self) -> list[list[Row]]:
        groups: defaultdict[str, list[Row]] = defaultdict(list)
        for (group, _), row in sorted(self._rows.items()):
            groups[group].append(row)
        return list(groups.values())

    def _close_group(self, rows: list[Row], watermark: int) -> Iterator[StormMetadata]:
        for part in segments(map(_bucket, rows), self._windows, self._rebuild):
            if part.due > watermark:
                return
            closed = [self._rows.pop((rows[0].group, bucket.start)) for bucket in part.buckets]
            if part.start >= self._rebuild.closed:
                details = (_detail(row, self._max_fingerprints) for row in closed)
                yield fold_storm(part, details, self._windows.gap, self._max_resources)


def _bucket(row: Row) -> Bucket:
    return Bucket(row.start, row.alerts, row.first, row.last)


def _detail(row: Row, most: int) -> Detail:
    return Detail(
        meta=row.meta,
        rank=row.rank,
        severity=row.severity,
        late=row.late,
        truncated=len(row.members) > most,
        example=row.example,
        members={fp: as_member(row.start, member) for fp, member in islice(row.members.items(), most)},
    )
