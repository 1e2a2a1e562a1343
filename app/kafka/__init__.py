"""Kafka: batch ingest, the keyed producer, the topics and what they need, errors told in one line."""

from app.kafka import records  # noqa: F401  Whatever reads Kafka reads all of it.
