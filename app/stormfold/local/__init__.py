"""The stack on this machine: real Kafka and Redis servers as children of this process, and the demo's incident."""
