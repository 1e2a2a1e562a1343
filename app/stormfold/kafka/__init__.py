"""Kafka: the batch consumer, the producer, readers, topics and dead letters; client errors in one line with the fix."""

from stormfold.kafka import _patches  # noqa: F401  Every client needs them.
