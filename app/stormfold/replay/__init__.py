"""Replay folds a past range of event time again, from what Kafka still holds, without touching the live state.

`range` determines how much of the log is read, `log` reads it, `restore` publishes missing aggregates, and `compare`
shows the result of another configuration. All times are milliseconds since the Unix epoch.
"""
