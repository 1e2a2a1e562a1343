"""The page reports every loss of a run, whenever it happened."""

import pytest

from stormfold.audit import AuditReport
from tests.chaos.compare import Excused, Wrong
from tests.chaos.faults import FAULTS
from tests.chaos.page import HEADING, Outcome, Report, block_of, repeat
from tests.chaos.truth import Verdict
from tests.chaos.watch import MORE_OPEN, TOLERANCE, Life, Resources, growth, life

SOUND = AuditReport(
    alerts=1_000, aggregated=990, dead_letters=10, open=0, aggregates=5, non_storms=2, unread=0, expired=0, foreign=0
)
SHORT = AuditReport(
    alerts=1_000, aggregated=983, dead_letters=10, open=0, aggregates=5, non_storms=2, unread=0, expired=0, foreign=0
)
KILLED = Outcome(("worker-killed",), 1_000, 2_000, 50, 1.0, 1.0)
BOTH = Outcome(("kafka-killed", "redis-flushed"), 3_000, 4_000, 70, 1.0, 1.0)


def rendered(
    *wrong: Wrong,
    books: AuditReport = SOUND,
    outcomes: tuple[Outcome, ...] = (KILLED, BOTH),
    lives: tuple[Life, ...] = (),
) -> str:
    """Returns the block of the page about a run."""
    verdict = Verdict(books, 990, 0, 5, 2, {"the folder": 5}, Excused(), list(wrong))
    return block_of(Report(7, tuple(FAULTS), 3_000, 15, outcomes, verdict, lives))


def cells(page: str, row: str) -> dict[str, str]:
    """Returns one row of the table."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {row}"))
    return dict(zip(HEADING, [cell.strip() for cell in line.strip("|").split(" | ")], strict=True))


def test_a_loss_outside_all_turns_is_in_the_row_of_all_faults() -> None:
    """The page also reports that the counts do not match."""
    page = rendered(Wrong("the counts do not match", 9_000, 9_000, lost=7), books=SHORT)
    assert cells(page, "**all**")["lost"] == "7"
    assert cells(page, "`worker-killed`")["lost"] == "0"
    assert "Counted exactly once" not in page and "The counts do not match" in page and "Found wrong: 1." in page


def test_a_loss_during_a_fault_is_in_the_row_of_the_fault_too() -> None:
    page = rendered(Wrong("storm is missing", 1_500, 1_600, lost=3), Wrong("twice", 3_500, 3_600, double=2))
    assert "Counted exactly once" in page
    assert (cells(page, "`worker-killed`")["lost"], cells(page, "two of them at once")["double"]) == ("3", "2")
    assert (cells(page, "**all**")["lost"], cells(page, "**all**")["double"]) == ("3", "2")


def test_a_fault_that_struck_nothing_is_reported() -> None:
    page = rendered(outcomes=(KILLED, KILLED._replace(struck=False)))
    assert cells(page, "`worker-killed`")["tried"] == "2, 1 of them struck nothing"


def test_the_command_that_repeats_a_run_names_its_faults() -> None:
    """They are named unless all were tried, because they and the seed decide the schedule."""
    assert repeat(7, tuple(FAULTS), 3_000, 15) == "make soak MINUTES=15 SEED=7 RATE=3000"
    some = repeat(7, ("worker-killed", "redis-flushed"), 3_000, 15)
    assert some.endswith("--minutes 15 --seed 7 --rate 3000 --faults worker-killed,redis-flushed")


def lived(minutes: float, *resident: float, descriptors: int = 0) -> Life:
    """Returns a life with these samples of memory (bytes), evenly spread, and more descriptors at its end."""
    step = minutes * 60 / (len(resident) - 1)
    opened = [28 + descriptors * (at > 0.7 * len(resident)) for at in range(len(resident))]
    samples = enumerate(zip(resident, opened, strict=True))
    found = life([Resources(at * step, 1, int(memory), files) for at, (memory, files) in samples])
    assert found
    return found


FILLING = [116e6 + 1e6 * step for step in range(120)]
UP_AND_DOWN = [220e6 + 20e6 * (step % 20) / 20 for step in range(240)]


def test_memory_may_rise_while_memos_fill_and_vary_then() -> None:
    steady = lived(15, *FILLING, *UP_AND_DOWN)
    assert not list(growth(steady))
    assert "memory at its highest rose by 0 MB" in rendered(lives=(steady,))


@pytest.mark.parametrize("descriptors", [0, MORE_OPEN + 1])
def test_memory_or_descriptors_that_grow_in_the_last_third_are_an_error(descriptors: int) -> None:
    slope = 0.0 if descriptors else 1.2 * TOLERANCE
    grows = lived(
        15, *FILLING, *(held + slope * (at / 120) for at, held in enumerate(UP_AND_DOWN)), descriptors=descriptors
    )
    (complaint,) = growth(grows)
    assert ("descriptors" in complaint) == bool(descriptors)
    # A life half as long is not judged, and the page reports that.
    short = grows._replace(minutes=5)
    assert not list(growth(short))
    assert "is not judged" in rendered(lives=(short,))


def test_a_worker_without_samples_in_each_third_is_not_judged() -> None:
    assert life([Resources(0.0, 1, 1, 1), Resources(900.0, 1, 1, 1)]) is None
    assert life([Resources(0.0, 1, 1, 1)]) is None


def test_a_wrong_incident_is_in_the_row_of_the_fault() -> None:
    page = rendered(Wrong("incident is missing", 1_500, 1_600, incidents=1))
    assert cells(page, "`worker-killed`")["wrong incidents"] == cells(page, "**all**")["wrong incidents"] == "1"
    assert cells(page, "two of them at once")["wrong incidents"] == "0"
    assert "5 storms, 2 incidents" in page
