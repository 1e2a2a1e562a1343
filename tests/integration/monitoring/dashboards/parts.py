"""The parts of dashboards: figures, graphs and tables of queries, with variables and a runbook.

Queries have plain metric names; the selected namespace is added here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

from tests.integration.monitoring.rules import sections

DATASOURCE = options.DataSourceRef(type_val="prometheus", uid="${datasource}")
NEVER = 1e6
"""An estimate of more seconds (eleven days) is shown as unknown."""
RUNBOOK_ID, _ROW_ID = 1000, 2000
"""First ids of runbook panels and rows, so that a new panel before them changes no link."""
_HEIGHT = 8
"""Height of panels; figures have half of it. A page is 24 wide."""

Steps = Sequence[tuple[float, str]]
"""Lower limit and colour."""
BAD: Steps = ((1, "red"),)
DELAY: Steps = ((60, "orange"), (600, "red"))
Panel = stat.Panel | timeseries.Panel | table.Panel


class Query(NamedTuple):
    """A query and the legend of its series, in which `{{label}}` is the value of a label."""

    expression: str
    legend: str = ""


class Column(NamedTuple):
    """A column of a table: a query whose series have the labels of the rows."""

    title: str
    expression: str
    unit: str
    steps: Steps = ()


class Part(NamedTuple):
    """A panel, and the alerts whose cause it shows."""

    panel: Panel
    alerts: Sequence[str]


def figure(
    title: str, meaning: str, expression: str, unit: str = units.Short, *, steps: Steps = (), below: str = "green",
    empty: str = "–", whole_range: bool = False, alerts: Sequence[str] = (),
) -> Part:  # fmt: skip
    """One number: the current one with its history behind it, or that of the whole time range; `empty` without data."""
    query = _query(Query(expression, title))
    panel = (
        stat.Panel()
        .with_target(query.instant() if whole_range else query.range())
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(options.BigValueGraphMode.NONE if whole_range else options.BigValueGraphMode.AREA)
        .color_mode(options.BigValueColorMode.VALUE)
        .thresholds(_thresholds(steps, below))
        .no_value(empty)
        .mappings([_never()])
    )
    return _part(panel, title, meaning, unit, alerts)


def graph(
    title: str, meaning: str, unit: str, *queries: Query, steps: Steps = (), stacked: bool = False,
    alerts: Sequence[str] = (),
) -> Part:  # fmt: skip
    """Series over time, with steps as dashed lines."""
    lines = options.GraphThresholdsStyleMode.DASHED if steps else options.GraphThresholdsStyleMode.OFF
    panel = (
        timeseries.Panel()
        .targets([_query(query).range().ref_id(name) for name, query in zip("ABCDEF", queries, strict=False)])
        .min(0)
        .line_width(1)
        .fill_opacity(30 if stacked else 10)
        .show_points(options.VisibilityMode.NEVER)
        .stacking(common.StackingConfig().mode(options.StackingMode.NORMAL if stacked else options.StackingMode.NONE))
        .thresholds(_thresholds(steps, "green"))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(lines))
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(options.LegendDisplayMode.TABLE)
            .placement(options.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
        )
    )
    return _part(panel, title, meaning, unit, alerts)


def rows(title: str, meaning: str, labels: Sequence[str], *columns: Column, alerts: Sequence[str] = ()) -> Part:
    """A row for each combination of the labels, in descending order of the first column."""
    # Grafana's names for the values of queries in a table.
    names = {f"Value #{name}": column.title for name, column in zip("ABCDEFGH", columns, strict=False)}
    order = {name: n for n, name in enumerate([*labels, *names])}
    panel = (
        table.Panel()
        .targets([
            _query(Query(column.expression)).ref_id(name[-1]).instant().format(PromQueryFormat.TABLE)
            for name, column in zip(names, columns, strict=True)
        ])
        .with_transformation(models.DataTransformerConfig("merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                "organize",
                options={"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names},
            )
        )
        .sort_by([common.TableSortByFieldState().display_name(columns[0].title).desc(True)])
        .cell_options(options.TableAutoCellOptions())
        .no_value("–")
    )  # fmt: skip
    for column in columns:
        properties: dict[str, object] = {"unit": column.unit, "decimals": 0, "mappings": [_never()]}
        if column.steps:
            properties["thresholds"] = _thresholds(column.steps, "green").build()
            properties["custom.cellOptions"] = {"type": "color-text"}
        panel.override_by_name(column.title, [models.DynamicConfigValue(*each) for each in properties.items()])
    return _part(panel, title, meaning, units.Short, alerts)


def dashboard(name: str, title: str, meaning: str, parts: Mapping[str, Sequence[Part]]) -> models.Dashboard:
    """A dashboard in rows. The first begins with the number of firing alerts; the last has the runbook."""
    uid = f"stormfold-{name}"
    alerts = list(dict.fromkeys(alert for row in parts.values() for part in row for alert in part.alerts))
    runbook = sections()
    ids = {alert: RUNBOOK_ID + n for n, alert in enumerate(runbook)}
    page = (
        builders.Dashboard(f"stormfold: {title}")
        .uid(uid)
        .description(meaning)
        .tags(["stormfold"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            builders.DashboardLink("stormfold")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["stormfold"])
            .include_vars(True)
            .keep_time(True)
        )
        .variables([_datasource(), _namespace()])
    )
    count = 0
    for n, (heading, row) in enumerate(parts.items()):
        page.with_row(builders.Row(heading).id(_ROW_ID + n))
        for panel, shown in row if count else [_firing(alerts), *row]:
            count += 1
            if isinstance(panel, stat.Panel):
                panel.span(4).height(_HEIGHT // 2)
            else:
                panel.span(12 if len(row) % 3 else 8).height(_HEIGHT)
            page.with_panel(panel.id(count).links([_link(uid, alert, ids[alert]) for alert in shown]))
    page.with_row(builders.Row("Runbook").id(_ROW_ID + len(parts)))
    for alert, content in runbook.items():
        if alert in alerts:
            # Links to other pages of the documentation would not work here.
            content = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", content).strip()
            page.with_panel(
                text.Panel()
                .id(ids[alert])
                .title(alert)
                .mode(TextMode.MARKDOWN)
                .content(content)
                .span(12)
                .height(_HEIGHT)
            )
    return page.build()


def of_namespace(expression: str) -> str:
    """Limits the expression to the selected namespace; All includes series without one."""
    chosen = 'namespace=~"$namespace"'
    return re.sub(
        r"\b((?:stormfold|redis)_\w+)(\{?)",
        lambda m: f"{m[1]}{{{chosen}{', ' if m[2] else '}'}",
        " ".join(expression.split()),
    )


def quantiles(metric: str, *shares: float) -> Iterator[Query]:
    """Quantiles of a histogram over all workers."""
    for share in shares:
        yield Query(
            f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket[$__rate_interval])))", f"p{share * 100:g}"
        )


def _part(panel: Panel, title: str, meaning: str, unit: str, alerts: Sequence[str]) -> Part:
    return Part(panel.title(title).description(meaning).unit(unit).datasource(DATASOURCE), alerts)


def _firing(alerts: Sequence[str]) -> Part:
    asked = f'ALERTS{{alertstate="firing", alertname=~"{"|".join(alerts)}"}}'
    return figure(
        "Firing alerts", "Alerts of Prometheus that this dashboard explains, at its end.",
        f"count({asked}) or vector(0)", steps=BAD,
    )  # fmt: skip


def _query(query: Query) -> prometheus.Dataquery:
    asked = prometheus.Dataquery().expr(of_namespace(query.expression)).datasource(DATASOURCE)
    return asked.legend_format(query.legend) if query.legend else asked


def _thresholds(steps: Steps, below: str) -> builders.ThresholdsConfig:
    found = [models.Threshold(None, below), *(models.Threshold(*step) for step in steps)]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def _never() -> models.RangeMap:
    result = models.ValueMappingResult("not at this rate")
    return models.RangeMap(models.DashboardRangeMapOptions(from_val=NEVER, result=result))


def _link(uid: str, alert: str, panel: int) -> builders.DashboardLink:
    """A link to the runbook of an alert."""
    link = builders.DashboardLink(f"Runbook: {alert}").type(models.DashboardLinkType.LINK)
    return link.url(f"/d/{uid}?viewPanel=panel-{panel}")


def _datasource() -> builders.DatasourceVariable:
    return builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _namespace() -> builders.QueryVariable:
    return (
        builders.QueryVariable("namespace")
        .label("Namespace")
        .description("The namespace of the workers, if Prometheus knows it.")
        .datasource(DATASOURCE)
        .query("label_values(stormfold_build_info, namespace)")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )
