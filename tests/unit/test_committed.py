"""Notes of commits: read across versions, and the newest epoch's counts."""

from stormfold.kafka.committed import CommitMetadata, newest_closed_before, newest_metadata
from stormfold.window import Windows

WINDOWS = Windows(gap=20, grace=5, slice_length=60)


def test_there_and_back() -> None:
    """All of it comes back."""
    for note in (
        CommitMetadata(),
        CommitMetadata(event_time=3, offset_base=2, timestamp=1),
        CommitMetadata(
            closed_before=1,
            horizon=2,
            state_version=3,
            keyed_partitions=4,
            windows=WINDOWS,
            windows_since=5,
            timestamp=6,
        ),
    ):
        assert CommitMetadata.decode(note.encode()) == note


def test_without_windows() -> None:
    """Commit metadata with and without windows is read."""
    assert CommitMetadata.decode('{"c":1,"h":2,"n":3,"k":4,"t":6}') == CommitMetadata(
        closed_before=1, horizon=2, state_version=3, keyed_partitions=4, timestamp=6
    )
    assert CommitMetadata.decode('{"c":1,"n":3,"more":{}}') == CommitMetadata(closed_before=1, state_version=3)
    assert CommitMetadata.decode("somebody else's") == CommitMetadata.decode('{"w":7}') == CommitMetadata()


def test_newest() -> None:
    """Metadata of the newest state version counts, of several the one with windows; C is the latest of all."""
    old, new = (
        CommitMetadata(closed_before=9, state_version=2, windows=Windows()),
        CommitMetadata(closed_before=7, state_version=3, keyed_partitions=4),
    )
    assert newest_metadata({}) == CommitMetadata()
    assert newest_metadata({0: (5, old), 1: (5, new)}) == new
    with_windows = CommitMetadata(closed_before=8, state_version=3, keyed_partitions=4, windows=WINDOWS)
    for committed in ({0: (5, new), 1: (5, with_windows)}, {0: (5, with_windows), 1: (5, new)}):
        assert newest_metadata(committed) == with_windows
    assert newest_closed_before({0: (5, old), 1: (5, with_windows)}) == 9
