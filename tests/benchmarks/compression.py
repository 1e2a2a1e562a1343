"""Measures the keyed topic's bytes on disk, and CPU time, by the compression of intake's producer."""

from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Compressed, Compression, Taken
from tests.benchmarks.throughput import FOLDED, filled

CODECS = ("none", "lz4", "zstd")


async def measure(bench: Bench) -> Compression:
    """Measures all codecs in turns, each with a whole worker and a backlog of the same alerts."""
    alerts, series = bench.size((240_000, 20_000), (3_000, 300))
    runs: dict[str, list[Taken]] = {}
    sizes: dict[str, list[float]] = {}
    for turn in range(bench.rounds):
        for codec in bench.size(CODECS, CODECS[-1:]):
            bench.progress(f"compression, round {turn + 1}: {codec}")
            settings = await bench.pipeline()
            feed = filled(settings, alerts, series)
            taken = await bench.take_up(settings, feed, FOLDED, alerts, keyed_compression=codec)
            logs = (bench.kafka.data_dir / "data").glob(f"{settings.keyed_topic}-*/*.log")
            runs.setdefault(codec, []).append(taken)
            sizes.setdefault(codec, []).append(sum(path.stat().st_size for path in logs) / alerts)
    return Compression(bench.run(), {codec: Compressed(sizes[codec], runs[codec]) for codec in runs})
