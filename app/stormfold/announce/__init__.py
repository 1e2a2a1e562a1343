"""Early notice: incidents that are still open, as alerts in Alertmanager. Best effort, outside the counts."""
