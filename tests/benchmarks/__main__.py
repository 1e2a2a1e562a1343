"""`make bench`: measures parts, prints their tables, merges them into the results file and writes the page."""

import asyncio
import tempfile
from pathlib import Path

import click
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from tests.benchmarks import claim, compression, growth, latency, million, page, profile, receive, throughput
from tests.benchmarks.bench import Bench
from tests.benchmarks.peers import run as peers
from tests.benchmarks.results import RESULTS, Results, load, save
from tests.benchmarks.tables import sheets

PARTS = {
    "claim": claim.measure,
    "throughput": throughput.measure,
    "compression": compression.measure,
    "profile": profile.measure,
    "growth": growth.measure,
    "latency": latency.measure,
    "million": million.measure,
    "peers": peers.measure,
    "receive": receive.measure,
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--rounds", default=3, show_default=True, help="How often each value is measured.")
@click.option("--quick", is_flag=True, help="Use tiny sizes, to test the benchmark itself.")
@click.option(
    "--results", type=click.Path(path_type=Path), default=RESULTS, help="The file that results are merged into."
)
def main(parts: tuple[str, ...], rounds: int, quick: bool, results: Path) -> None:
    """Measure PARTS, by default all."""
    uvloop.run(_main(parts or tuple(PARTS), rounds, quick, results))


async def _main(parts: tuple[str, ...], rounds: int, quick: bool, path: Path) -> None:
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="stormfold-bench-") as name, console.status("starting servers") as status:
        folder = Path(name)
        kafka = EmbeddedKafka(folder / "kafka", on_progress=status.update)
        redis = EmbeddedRedis(folder / "redis", maxmemory="4gb")
        try:
            await asyncio.to_thread(kafka.start)
            await asyncio.to_thread(redis.start)
            bench = Bench(kafka, redis, folder, rounds, quick, status.update)
            for part in parts:
                measured = await PARTS[part](bench)
                results = msgspec.structs.replace(load(path), **{part: measured})
                save(results, path)
                show(part, results)
                if path == RESULTS:
                    page.write(results)
        finally:
            await asyncio.to_thread(redis.kill)
            await asyncio.to_thread(kafka.kill)


def show(part: str, results: Results) -> None:
    """Prints the tables of a part."""
    for sheet in sheets(part, results):
        table = Table(title=sheet.title, title_justify="left")
        for number, column in enumerate(sheet.heading):
            table.add_column(column, justify="right" if number else "left")
        for row in sheet.rows:
            table.add_row(*row)
        Console(width=160).print(table)


if __name__ == "__main__":
    main()
