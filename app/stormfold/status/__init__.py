"""The state of the whole pipeline, read from Kafka and Redis for the command line and the status page."""
