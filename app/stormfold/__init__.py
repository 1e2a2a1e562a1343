"""stormfold: alerts in on Kafka, one Kubernetes resource per storm out."""

__version__ = "0.1.0"
