"""Writes the dashboards anew."""

from tests.monitoring.dashboards import files

for path, text in files().items():
    path.write_text(text)
