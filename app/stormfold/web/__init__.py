"""What a worker shows over HTTP: health, readiness, metrics, the status page."""
