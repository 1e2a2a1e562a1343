"""Kafka: batch ingest, the keyed producer, the topics and what they need, errors told in one line."""

from stormfold.kafka import _patches  # noqa: F401  Every use of Kafka needs them.
