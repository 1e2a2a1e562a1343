"""Writes the dashboards, the links from rules to them, and the operator's copy of the rules."""

from tests.integration.monitoring.dashboards import files, panels
from tests.integration.monitoring.rules import RESOURCE, RULES, linked, resource

for path, text in files().items():
    path.write_text(text)
RULES.write_text(linked(RULES.read_text(), panels()))
RESOURCE.write_text(resource())
