"""Replay: a past range of event time folded again from what Kafka still holds, apart from whatever is live.

`log` reads the range and makes its storms, `restore` publishes those that are missing, `compare` tells what another
configuration would have made of it. All times are milliseconds since the epoch.
"""
