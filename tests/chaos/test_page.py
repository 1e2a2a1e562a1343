"""What a run found is said as it was: a loss shows, whenever and wherever it happened."""

import pytest

from stormfold.audit import AuditReport
from tests.chaos.faults import FAULTS
from tests.chaos.page import HEADING, Outcome, Report, block_of, repeat
from tests.chaos.truth import Excused, Verdict, Wrong
from tests.chaos.watch import MORE_OPEN, TOLERANCE, Held, Life, growth, life

SOUND = AuditReport(
    alerts=1_000, aggregated=990, dead_letters=10, open=0, aggregates=5, non_storms=2, unread=0, expired=0, foreign=0
)
SHORT = AuditReport(
    alerts=1_000, aggregated=983, dead_letters=10, open=0, aggregates=5, non_storms=2, unread=0, expired=0, foreign=0
)
KILLED = Outcome(("worker-killed",), 1_000, 2_000, 50, 1.0, 1.0)
BOTH = Outcome(("kafka-killed", "redis-flushed"), 3_000, 4_000, 70, 1.0, 1.0)


def said(
    *wrong: Wrong,
    books: AuditReport = SOUND,
    outcomes: tuple[Outcome, ...] = (KILLED, BOTH),
    lives: tuple[Life, ...] = (),
) -> str:
    """The page of a run."""
    verdict = Verdict(books, 990, 0, 5, {"the folder": 5}, Excused(), list(wrong))
    return block_of(Report(7, tuple(FAULTS), 3_000, 15, outcomes, verdict, lives))


def cells(page: str, row: str) -> dict[str, str]:
    """One row of the table."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {row}"))
    return dict(zip(HEADING, [cell.strip() for cell in line.strip("|").split(" | ")], strict=True))


def test_a_loss_of_no_turn() -> None:
    """What happened at a time that no fault was there is in the row of all, and the books are said not to balance."""
    page = said(Wrong("the counts do not match", 9_000, 9_000, lost=7), books=SHORT)
    assert cells(page, "**all**")["lost"] == "7"
    assert cells(page, "`worker-killed`")["lost"] == "0"
    assert "Counted exactly once" not in page and "The counts do not match" in page and "Found wrong: 1." in page


def test_a_loss_of_a_turn() -> None:
    """What happened while a fault was there is in its row too."""
    page = said(Wrong("storm is missing", 1_500, 1_600, lost=3), Wrong("twice", 3_500, 3_600, double=2))
    assert "Counted exactly once" in page
    assert (cells(page, "`worker-killed`")["lost"], cells(page, "two of them at once")["double"]) == ("3", "2")
    assert (cells(page, "**all**")["lost"], cells(page, "**all**")["double"]) == ("3", "2")


def test_a_fault_that_struck_nothing() -> None:
    """It is told of, not counted as withstood."""
    page = said(outcomes=(KILLED, KILLED._replace(struck=False)))
    assert cells(page, "`worker-killed`")["tried"] == "2, 1 of them struck nothing"


def test_the_command_that_repeats() -> None:
    """It names the faults wherever not all of them were tried: they decide the schedule with the seed."""
    assert repeat(7, tuple(FAULTS), 3_000, 15) == "make soak MINUTES=15 SEED=7 RATE=3000"
    some = repeat(7, ("worker-killed", "redis-flushed"), 3_000, 15)
    assert some.endswith("--minutes 15 --seed 7 --rate 3000 --faults worker-killed,redis-flushed")


def lived(minutes: float, *resident: float, descriptors: int = 0) -> Life:
    """A life through which memory (bytes) was so, evenly spread; descriptors came in the last tenth of it."""
    step = minutes * 60 / (len(resident) - 1)
    found = life([
        Held(at * step, 1, int(held), 28 + descriptors * (at > 0.7 * len(resident))) for at, held in enumerate(resident)
    ])  # fmt: skip
    assert found
    return found


FILLING = [116e6 + 1e6 * step for step in range(120)]
UP_AND_DOWN = [220e6 + 20e6 * (step % 20) / 20 for step in range(240)]


def test_memory_that_stays() -> None:
    """It may rise while memos fill, and go up and down then."""
    steady = lived(15, *FILLING, *UP_AND_DOWN)
    assert not list(growth(steady))
    assert "memory at its highest rose by 0 MB" in said(lives=(steady,))


@pytest.mark.parametrize("descriptors", [0, MORE_OPEN + 1])
def test_memory_or_descriptors_that_grow(descriptors: int) -> None:
    """In the last third neither memory nor descriptors may grow beyond what is tolerated."""
    slope = 0.0 if descriptors else 1.2 * TOLERANCE
    grows = lived(
        15, *FILLING, *(held + slope * (at / 120) for at, held in enumerate(UP_AND_DOWN)), descriptors=descriptors
    )
    (complaint,) = growth(grows)
    assert ("descriptors" in complaint) == bool(descriptors)
    # Half as long it tells nothing, and the page says so.
    short = grows._replace(minutes=5)
    assert not list(growth(short))
    assert "is not judged" in said(lives=(short,))


def test_a_worker_that_was_not_seen() -> None:
    """Nothing is said of one that was not seen in each third of its life."""
    assert life([Held(0.0, 1, 1, 1), Held(900.0, 1, 1, 1)]) is None
    assert life([Held(0.0, 1, 1, 1)]) is None
