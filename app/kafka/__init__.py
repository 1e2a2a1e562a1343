"""Kafka: batch ingest, the keyed producer, the topics and what they need, errors told in one line."""
