"""The way in over HTTP: takes request bodies with alerts, cuts them into records and writes those to Kafka."""
