"""One poll of keyed records becomes rows, as in a dict of alerts, without duplicates of source positions."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.eventtime import PartitionPair
from stormfold.group import GroupMeta, group_id, overflow_meta
from stormfold.keyed_record import (
    ALERT,
    HEAD,
    RESOLVED,
    Body,
    Marks,
    encode_marks,
)
from stormfold.merge import KNOWN_BYTES, QUALIFIED, LatePolicy, Merged, Merger, Row, SourcePosition
from stormfold.resource import Resource
from stormfold.storm import Member
from stormfold.window import Windows, first_due
from tests.integration.model import plain, strategies
from tests.integration.model.logs import Record, Sent, log
from tests.integration.model.plain import Alert, Content

EXACT = settings(deadline=None, max_examples=200, print_blob=True)

WINDOWS = Windows(gap=10, grace=5, slice_length=30)
GROUP = strategies.GROUPS[0]


@st.composite
def histories(draw: st.DrawFn) -> list[Sent]:
    """Alerts of two alerts partitions in two keyed ones: source positions ascend within a pair."""
    found = draw(st.lists(strategies.alerts(st.integers(0, 80)), max_size=40))
    following: dict[PartitionPair, SourcePosition] = {}
    result = []
    for alert in found:
        pair = (draw(st.integers(0, 1)), draw(st.integers(0, 1)))
        offset, index = following.get(pair, (0, 0))
        following[pair] = draw(st.sampled_from([(offset, index + 1), (offset + 1, 0), (offset + 7, 0)]))
        result.append(Sent(alert, pair, (offset, index)))
    return result


def contents(rows: Iterable[Row]) -> dict[tuple[str, int], Content]:
    """Returns the rows that the plain model expects."""
    return {
        (row.group, row.start): Content(
            row.meta, row.alerts, row.first, row.last, row.late, row.rank, row.severity, row.example,
            {
                fingerprint: Member(
                    alerts=alerts,
                    last=row.start + last,
                    resolved=bool(flags & RESOLVED),
                    qualified=bool(flags & QUALIFIED),
                    resource=msgspec.msgpack.decode(resource, type=Resource) if resource else None,
                )
                for fingerprint, (alerts, last, flags, resource) in row.members.items()
            },
        )
        for row in rows
    }  # fmt: skip


def merge(
    sent: Iterable[Sent], origins: dict[PartitionPair, SourcePosition] | None = None, floor: LatePolicy | None = None
) -> Merged:
    """One poll, by a new merger."""
    return Merger(WINDOWS).merge(log(sent), origins or {}, floor or LatePolicy())


@EXACT
@given(histories())
def test_rows_agree_with_a_dict_of_alerts(sent: list[Sent]) -> None:
    """There is a row for each group and bucket; counts, due, group and newest agree with it."""
    merged = merge(sent)
    assert contents(merged.rows) == plain.buckets([one.alert for one in sent], WINDOWS)
    assert len(merged.rows) == len({(row.group, row.start) for row in merged.rows})
    assert merged.alerts == len(sent)
    assert (merged.duplicates, merged.skipped, merged.invalid) == (0, 0, 0)
    assert merged.newest == max((one.alert.time for one in sent), default=None)
    for row in merged.rows:
        assert row.due == first_due(row.start, row.last, WINDOWS)
        other = overflow_meta(msgspec.msgpack.decode(row.meta, type=GroupMeta))
        assert merged.overflow[row.overflow][0] == group_id(other.route, other.labels, other.silenced)


@EXACT
@given(histories(), st.randoms(use_true_random=False))
def test_alerts_of_different_pairs_may_come_in_any_order(sent: list[Sent], random: Random) -> None:
    """Source positions only order the alerts of one pair."""
    queues: dict[PartitionPair, list[Sent]] = {}
    for one in sent:
        queues.setdefault(one.pair, []).append(one)
    other = []
    while queues:
        pair = random.choice(sorted(queues))
        other.append(queues[pair].pop(0))
        queues = {key: left for key, left in queues.items() if left}
    first, second = merge(sent), merge(other)
    assert contents(first.rows) == contents(second.rows)
    assert first.source_positions == second.source_positions


@EXACT
@given(histories(), st.data())
def test_each_alert_counts_in_the_first_poll_that_has_it(sent: list[Sent], data: st.DataObject) -> None:
    """The log is cut anywhere into polls, and parts are sent again after a crash."""
    merger = Merger(WINDOWS)
    origins: dict[PartitionPair, SourcePosition] = {}
    seen: dict[tuple[PartitionPair, SourcePosition], Sent] = {}
    total = at = 0
    while at < len(sent):
        resent_from = data.draw(st.integers(0, at))
        end = data.draw(st.integers(at + 1, len(sent)))
        poll = [one._replace(alert=replace(one.alert, time=one.alert.time + 1)) for one in sent[resent_from:at]]
        poll += sent[at:end]
        merged = merger.merge(log(poll), origins, LatePolicy())
        new = {(one.pair, one.source): one for one in poll if (one.pair, one.source) not in seen}
        assert contents(merged.rows) == plain.buckets([one.alert for one in new.values()], WINDOWS)
        assert merged.duplicates == len(poll) - len(new)
        seen |= new
        origins |= merged.source_positions
        total += merged.alerts
        at = end
    assert total == len(sent)
    assert [seen[one.pair, one.source] for one in sent] == sent
    assert origins == {one.pair: one.source for one in sent}


def test_a_source_position_that_is_not_newer_is_a_duplicate() -> None:
    """The offset decides first, then the index."""
    alert = Alert(bytes(8), GROUP, 5)
    pairs = [(0, 0), (0, 1), (1, 0)]
    origins = [(7, 0), (7, 1), (8, 0), (7, 1), (8, 0), (7, 9), (8, 1)]
    merged = merge([Sent(alert, pair, origin) for pair in pairs for origin in origins])
    assert (merged.alerts, merged.duplicates) == (4 * 3, 3 * 3)
    assert merged.source_positions == dict.fromkeys(pairs, (8, 1))


def test_partition_pairs_are_independent() -> None:
    """Pairs that did not move are left out."""
    alert = Alert(bytes(8), GROUP, 5)
    known = {(0, 0): (9, 0), (1, 1): (9, 0), (0, 1): (3, 3)}
    merged = merge([Sent(alert, (0, 0), (9, 0)), Sent(alert, (0, 1), (3, 4)), Sent(alert, (1, 0), (0, 0))], known)
    assert (merged.alerts, merged.duplicates) == (2, 1)
    assert merged.source_positions == {(0, 1): (3, 4), (1, 0): (0, 0)}


F, R, OLD = (False, False), (True, False), (False, True)
"""A firing alert, a resolved one, and an old one that fires."""


@pytest.mark.parametrize(
    ("alerts", "qualified", "resolved"),
    [
        ([(1, F)], True, False),
        ([(1, R)], False, True),
        ([(1, OLD)], False, False),
        ([(1, OLD), (2, F), (3, OLD)], True, False),
        ([(1, OLD), (2, R)], False, True),
        ([(1, F), (2, R)], True, True),
        ([(2, R), (1, F)], True, True),
        ([(1, R), (2, F)], True, False),
        ([(2, F), (1, R)], True, False),
        ([(1, F), (1, R)], True, True),
        ([(1, R), (1, F)], True, True),
        ([(1, R), (1, R), (0, R)], False, True),
        ([(1, R), (2, F), (2, R), (1, F)], True, True),
    ],
)
def test_a_member_keeps_its_newest_status_and_that_it_ever_qualified(
    alerts: list[tuple[int, tuple[bool, bool]]], qualified: bool, resolved: bool
) -> None:
    """A resolution counts among equally new alerts."""
    sent = [
        Sent(Alert(bytes(8), GROUP, time, is_resolved, not_qualified=is_old), (0, 0), (n, 0))
        for n, (time, (is_resolved, is_old)) in enumerate(alerts)
    ]
    (row,) = merge(sent).rows
    count, last, flags, _ = row.members[bytes(8)]
    assert (count, last) == (len(alerts), max(time for time, _ in alerts))
    assert bool(flags & QUALIFIED) == qualified
    assert bool(flags & RESOLVED) == resolved


class TestLatePolicy:
    """Alerts that come before the watermark, or that a rebuild skips."""

    @EXACT
    @given(histories(), st.integers(0, 80))
    def test_an_alert_before_the_rebuild_is_not_folded(self, sent: list[Sent], begin: int) -> None:
        """Its source position is kept, so its repetition is a duplicate."""
        merged = merge(sent, floor=LatePolicy(skip_before=begin))
        kept = [one.alert for one in sent if one.alert.time >= begin]
        assert contents(merged.rows) == plain.buckets(kept, WINDOWS)
        assert (merged.alerts, merged.skipped) == (len(kept), len(sent) - len(kept))
        assert merged.source_positions == {one.pair: one.source for one in sent}

    @EXACT
    @given(histories(), st.integers(0, 80), st.integers(0, 20))
    def test_an_alert_before_the_watermark_counts_at_the_horizon_as_late(
        self, sent: list[Sent], watermark: int, grace: int
    ) -> None:
        """Nothing else changes."""
        horizon = watermark + grace
        merged = merge(sent, floor=LatePolicy(watermark=watermark, horizon=horizon))
        moved = [
            replace(one.alert, time=horizon, late=True) if one.alert.time < watermark else one.alert for one in sent
        ]
        assert contents(merged.rows) == plain.buckets(moved, WINDOWS)
        assert merged.alerts == len(sent)

    def test_an_alert_before_the_rebuild_is_not_moved_to_the_horizon(self) -> None:
        """An alert before B is closed and published; it must not count again at the horizon."""
        sent = [Sent(Alert(bytes(8), GROUP, 5), (0, 0), (0, 0))]
        merged = merge(sent, floor=LatePolicy(skip_before=6, watermark=50, horizon=60))
        assert (merged.rows, merged.alerts, merged.skipped) == ([], 0, 1)


class TestMarks:
    """Marks."""

    def test_the_newest_mark_of_each_pair_counts(self) -> None:
        """An older one that comes later does not count."""
        logs = {
            0: [_marks(3, {0: 10, 1: 20}), _marks(3, {0: 12, 1: 19}), _marks(2, {0: 11})],
            4: [_marks(3, {2: 7})],
        }
        merged = Merger(WINDOWS).merge(logs, {}, LatePolicy())
        assert merged.marks == {(0, 0): 12, (0, 1): 20, (4, 2): 7}
        assert merged.alerts_partitions == 3
        assert (merged.rows, merged.source_positions, merged.invalid, merged.newest) == ([], {}, 0, None)

    def test_a_mark_may_be_at_time_zero(self) -> None:
        """The first millisecond of Unix time is a valid mark."""
        assert Merger(WINDOWS).merge({0: [_marks(1, {0: 0})]}, {}, LatePolicy()).marks == {(0, 0): 0}

    @pytest.mark.parametrize(("grace", "reached"), [(0, 100), (WINDOWS.grace, 100), (WINDOWS.grace + 7, 93), (999, 0)])
    def test_a_mark_of_a_larger_grace_counts_as_earlier(self, grace: int, reached: int) -> None:
        """Alerts after a mark of a larger grace may be earlier by the difference."""
        marks = Record(0, encode_marks(Marks(1, {0: 100}, grace)))
        assert Merger(WINDOWS).merge({0: [marks]}, {}, LatePolicy()).marks == {(0, 0): reached}


def _marks(partitions: int, progress: dict[int, int]) -> Record:
    return Record(0, encode_marks(Marks(partitions, progress)))


class TestForeignRecords:
    """Records that stormfold did not write are counted and change nothing."""

    GOOD = Alert(bytes(8), GROUP, 5)
    HEAD_ONLY = GOOD.keyed(0, 0)[: HEAD.size]

    @pytest.mark.parametrize(
        "value",
        [
            None,
            b"",
            b"\0",
            b"\xff" * 100,
            b'{"labels":{}}',
            bytes([ALERT]),
            HEAD_ONLY[:-1],
            HEAD_ONLY,
            HEAD_ONLY + b"\xc1",
            HEAD_ONLY + b"garbage",
            HEAD_ONLY + msgspec.msgpack.encode([1, 2, 3]),
            HEAD_ONLY + GOOD.body()[:-1],
            b"\x02",
            b"\x02\xc1",
            b"\x02" + msgspec.msgpack.encode([1]),
            b"\x02" + msgspec.msgpack.encode([1, {"a": 2}]),
        ],
    )
    def test_a_record_of_somebody_else_is_counted(self, value: bytes | None) -> None:
        """Alone or between alerts."""
        self._check(value)

    @pytest.mark.parametrize(
        "changes",
        [
            {"meta": b""},
            {"meta": b"\xc1"},
            {"meta": msgspec.msgpack.encode(["default"])},
            {"resource": b"\xc1"},
            {"resource": msgspec.msgpack.encode([1])},
            {"fingerprint": b"short"},
            {"fingerprint": b"a"},
            {"rank": 256},
            {"rank": -1},
            {"example": b"{"},
            {"group": "short"},
            {"group": "a" * 20 + "\n"},
        ],
        ids=str,
    )
    def test_a_body_that_cannot_be_closed_is_refused(self, changes: dict[str, object]) -> None:
        """Values that the closer cannot read must not get into Redis."""
        body = msgspec.structs.replace(msgspec.msgpack.decode(self.GOOD.body(), type=Body), **changes)
        self._check(self.HEAD_ONLY + msgspec.msgpack.encode(body))

    @EXACT
    @given(st.binary(max_size=80))
    def test_any_bytes_are_merged_or_counted(self, value: bytes) -> None:
        """No value of a record raises."""
        Merger(WINDOWS).merge({0: [Record(0, value), Record(1, bytes([ALERT]) + value)]}, {}, LatePolicy())

    def _check(self, value: bytes | None) -> None:
        good = [Record(n, self.GOOD.keyed(0, n + 1)) for n in range(2)]
        merged = Merger(WINDOWS).merge({0: [good[0], Record(9, value), good[1]]}, {}, LatePolicy())
        assert (merged.alerts, merged.invalid, merged.duplicates) == (2, 1, 0)
        assert merged.source_positions == {(0, 0): (2, 0)}
        assert contents(merged.rows) == plain.buckets([self.GOOD, self.GOOD], WINDOWS)
        assert merged.marks == {}


def test_the_memo_of_bodies_is_limited_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped bodies are decoded again, and overflow groups keep their numbers."""
    monkeypatch.setattr("stormfold.merge.MEMO_BYTES", 2_000)
    sent = [Sent(Alert(bytes([n % 5]) * 8, strategies.GROUPS[n % 3], n), (0, 0), (n, 0)) for n in range(30)]
    merger = Merger(WINDOWS)
    merged = merger.merge(log(sent), {}, LatePolicy())
    assert contents(merged.rows) == plain.buckets([one.alert for one in sent], WINDOWS)
    assert len(merged.overflow) == 3
    assert merger._held <= 2_000 and len(merger._bodies) + len(merger._groups) <= 2_000 / KNOWN_BYTES
    wanted = {group.silenced: overflow_meta(group) for group in strategies.GROUPS[:3] if group.route == "default"}
    for row in merged.rows:
        meta = msgspec.msgpack.decode(row.meta, type=GroupMeta)
        if meta.route == "default":
            assert merged.overflow[row.overflow][1] == msgspec.msgpack.encode(wanted[meta.silenced])
