"""Severities: their order, and the many words that senders use for them. Words are compared without case."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

ORDER = ("critical", "error", "warning", "info", "none")
"""Highest first."""

DEFAULT = "warning"
"""An alert without a severity, or with an unknown one, ranks as this, if the order or an alias has it."""

ALIASES: Mapping[str, str] = {
    word: severity
    for severity, words in {
        "critical": "crit page pager fatal p0 p1 sev0 sev1 s1 emergency emerg disaster panic blocker severe",
        "error": "err high major p2 sev2 s2",
        "warning": "warn minor average medium moderate p3 sev3 s3",
        "info": "information informational notice low trivial p4 sev4 s4 debug",
        "none": "ok p5 sev5 s5",
    }.items()
    for word in words.split()
}
"""Word → the severity of the order that it means."""


@dataclass(frozen=True, slots=True)
class Severity:
    """What a word for a severity means."""

    rank: int
    """Index in the order, 0 the highest."""
    name: str
    """Its name in the order."""
    known: bool = True
    """Whether the order or an alias has the word."""


class Severities:
    """The order of one configuration, and its aliases before the usual ones."""

    def __init__(self, order: Iterable[str], aliases: Mapping[str, str]) -> None:
        ordered = tuple(order)
        self._known = {name.lower(): Severity(rank, name) for rank, name in reversed(list(enumerate(ordered)))}
        ranked = dict(self._known)
        for word, name in chain(aliases.items(), ALIASES.items()):
            if name.lower() in ranked:
                self._known.setdefault(word.lower(), ranked[name.lower()])
        self._absent = default = self._known.get(DEFAULT, Severity(len(ordered) - 1, ordered[-1]))
        self._unknown = Severity(default.rank, default.name, known=False)

    def __getitem__(self, word: str) -> Severity:
        """The meaning of a word; empty: the alert has no severity."""
        return self._known.get(word.lower(), self._unknown) if word else self._absent
