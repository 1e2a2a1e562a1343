"""How the pipeline does as a whole: what Kafka and Redis say of it, for the command line and the status page."""
