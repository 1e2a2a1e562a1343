"""Notes of commits: read across versions, and the newest epoch's counts."""

from app.kafka.committed import Note, newest_closed, newest_note
from app.window import Windows

WINDOWS = Windows(gap=20, grace=5, slice=60)


def test_there_and_back() -> None:
    """All of it comes back."""
    for note in (Note(), Note(e=3, b=2, t=1), Note(c=1, h=2, n=3, k=4, w=WINDOWS, s=5, t=6)):
        assert Note.decode(note.encode()) == note


def test_without_windows() -> None:
    """Notes of versions that did not tell the windows are read, and those of others too."""
    assert Note.decode('{"c":1,"h":2,"n":3,"k":4,"t":6}') == Note(c=1, h=2, n=3, k=4, t=6)
    assert Note.decode('{"c":1,"n":3,"more":{}}') == Note(c=1, n=3)
    assert Note.decode("somebody else's") == Note.decode('{"w":7}') == Note()


def test_newest() -> None:
    """The newest epoch's note counts, of several the one that tells its windows; C is the latest of all."""
    old, new = Note(c=9, n=2, w=Windows()), Note(c=7, n=3, k=4)
    assert newest_note({}) == Note()
    assert newest_note({0: (5, old), 1: (5, new)}) == new
    told = Note(c=8, n=3, k=4, w=WINDOWS)
    for committed in ({0: (5, new), 1: (5, told)}, {0: (5, told), 1: (5, new)}):
        assert newest_note(committed) == told
    assert newest_closed({0: (5, old), 1: (5, told)}) == 9
