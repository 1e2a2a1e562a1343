"""Open transactions: since when, and how they are described."""

from stormfold.kafka.transactions import MAX_PARTITIONS, REPORT_SECONDS, OpenTransactions, describe


def test_a_transaction_is_old_after_some_time_at_the_same_offset() -> None:
    found = OpenTransactions()
    found.update({0: 5, 1: 7, 2: 4}, {0: 9, 1: 7, 2: 9}, now=0)
    assert found.old(REPORT_SECONDS - 1) == {}
    found.update({0: 5, 1: 7, 2: 6}, {0: 12, 1: 7, 2: 9}, now=REPORT_SECONDS - 1)
    assert found.old(REPORT_SECONDS) == {0: 5}
    found.update({0: 12, 2: 6}, {0: 12, 2: 9}, now=REPORT_SECONDS)
    assert found.old(2 * REPORT_SECONDS) == {2: 6}


def test_partitions_and_offsets_are_named() -> None:
    problem, hint = describe("alerts", {2: 9, 0: 5})
    assert "alerts-0 from offset 5, alerts-2 from offset 9:" in problem
    assert "abort --topic alerts --partition 0 --start-offset 5" in hint
    many, _ = describe("alerts", dict.fromkeys(range(MAX_PARTITIONS + 3), 1))
    assert many.count("from offset") == MAX_PARTITIONS and "and 3 more" in many
