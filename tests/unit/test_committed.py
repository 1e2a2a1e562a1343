"""Notes of commits: read across versions, and the newest epoch's counts."""

from stormfold.kafka.committed import CommitMetadata, newest_closed, newest_metadata
from stormfold.window import Windows

WINDOWS = Windows(gap=20, grace=5, slice_length=60)


def test_there_and_back() -> None:
    """All of it comes back."""
    for note in (
        CommitMetadata(),
        CommitMetadata(e=3, b=2, t=1),
        CommitMetadata(c=1, h=2, n=3, k=4, w=WINDOWS, s=5, t=6),
    ):
        assert CommitMetadata.decode(note.encode()) == note


def test_without_windows() -> None:
    """Notes of versions that did not tell the windows are read, and those of others too."""
    assert CommitMetadata.decode('{"c":1,"h":2,"n":3,"k":4,"t":6}') == CommitMetadata(c=1, h=2, n=3, k=4, t=6)
    assert CommitMetadata.decode('{"c":1,"n":3,"more":{}}') == CommitMetadata(c=1, n=3)
    assert CommitMetadata.decode("somebody else's") == CommitMetadata.decode('{"w":7}') == CommitMetadata()


def test_newest() -> None:
    """The newest epoch's note counts, of several the one that tells its windows; C is the latest of all."""
    old, new = CommitMetadata(c=9, n=2, w=Windows()), CommitMetadata(c=7, n=3, k=4)
    assert newest_metadata({}) == CommitMetadata()
    assert newest_metadata({0: (5, old), 1: (5, new)}) == new
    told = CommitMetadata(c=8, n=3, k=4, w=WINDOWS)
    for committed in ({0: (5, new), 1: (5, told)}, {0: (5, told), 1: (5, new)}):
        assert newest_metadata(committed) == told
    assert newest_closed({0: (5, old), 1: (5, told)}) == 9
