"""Folding and closing of keyed alerts in memory: the same results as fold, Redis and close together."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

from stormfold.eventtime import PartitionPair
from stormfold.merge import QUALIFIED, LatePolicy, Merger, Record, Row, Rows, SourcePosition, as_member
from stormfold.storm import Aggregate, BucketDetail, fold_segment
from stormfold.window import Bucket, Rebuild, Segment, Windows, first_due, segments


class InMemoryFold:
    """Takes each partition's records in order; holds only what is still open at the watermark.

    Aggregates that begin before the rebuild's `closed_before` are dropped, because the log may lack their beginning.
    Alerts before `windows_since` (ms) are skipped like those before `rebuild_from`: they were counted under other
    windows.
    """

    def __init__(
        self,
        windows: Windows,
        rebuild: Rebuild,
        max_fingerprints: int,
        max_resources: int,
        windows_since: int | None = None,
    ) -> None:
        self.alerts = 0
        """Alerts folded so far."""
        self._windows = windows
        self._rebuild = rebuild
        skip_before = rebuild.rebuild_from if windows_since is None else max(rebuild.rebuild_from, windows_since)
        self._late_policy = LatePolicy(skip_before=skip_before)
        self._max_fingerprints = max_fingerprints
        self._max_resources = max_resources
        self._merger = Merger(windows)
        self._positions: dict[PartitionPair, SourcePosition] = {}
        self._rows: Rows = {}

    def fold(self, partition: int, records: Iterable[Record]) -> None:
        """Folds records of a keyed partition; skips records that are not alerts, or were folded before."""
        merged = self._merger.merge_into(self._rows, {partition: records}, self._positions, self._late_policy)
        self._positions |= merged.source_positions
        self.alerts += merged.alerts

    def close(self, watermark: int) -> Iterator[Aggregate]:
        """The aggregates that are final at the watermark (ms). Looks at everything that is open."""
        for rows in self._by_group():
            if first_due(rows[0].start, rows[0].last, self._windows) <= watermark:
                yield from self._close_group(rows, watermark)

    def count_open(self, begin: int, end: int) -> int:
        """Number of open segments that begin at or after `begin` and before `end` (ms)."""
        parts = (part for rows in self._by_group() for part in self._segments(rows))
        return sum(begin <= part.start < end for part in parts)

    def _by_group(self) -> list[list[Row]]:
        groups: defaultdict[str, list[Row]] = defaultdict(list)
        for (group, _), row in sorted(self._rows.items()):
            groups[group].append(row)
        return list(groups.values())

    def _segments(self, rows: Iterable[Row]) -> list[Segment]:
        buckets = (Bucket(row.start, row.alerts, row.first, row.last) for row in rows)
        return segments(buckets, self._windows, self._rebuild)

    def _close_group(self, rows: list[Row], watermark: int) -> Iterator[Aggregate]:
        for part in self._segments(rows):
            if part.due > watermark:
                return
            closed = [self._rows.pop((rows[0].group, bucket.start)) for bucket in part.buckets]
            if part.start >= self._rebuild.closed_before:
                details = (_detail(row, self._max_fingerprints) for row in closed)
                yield fold_segment(part, details, self._windows.gap, self._max_resources)


def _detail(row: Row, limit: int) -> BucketDetail:
    return BucketDetail(
        meta=row.meta,
        rank=row.rank,
        severity=row.severity,
        late=row.late,
        truncated=len(row.members) > limit,
        example=row.example,
        members={fp: as_member(row.start, member) for fp, member in islice(row.members.items(), limit)},
        unlisted=sum(alerts for alerts, _, flags, _ in islice(row.members.values(), limit, None) if flags & QUALIFIED),
    )
