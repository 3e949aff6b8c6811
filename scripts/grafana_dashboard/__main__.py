"""Generates deploy/grafana/dashboard.json with Grafana's own library, which `make manifests` installs.

python -m scripts.grafana_dashboard [--check]     --check: change nothing, exit code 1 if the file is out of date
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

from scripts.grafana_dashboard.panels import ROWS, Panel

FILE = Path(__file__).resolve().parent.parent.parent / "deploy" / "grafana" / "dashboard.json"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH = 24


def _build(panel: Panel) -> stat.Panel | timeseries.Panel:
    built: stat.Panel | timeseries.Panel
    if panel.number:
        built = stat.Panel().height(4).span(_WIDTH // 6).thresholds(_thresholds(panel))
        built.reduce_options(ReduceDataOptions().calcs(["lastNotNull"])).graph_mode(BigValueGraphMode.AREA)
        built.color_mode(BigValueColorMode.VALUE)
    else:
        legend = VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
        tooltip = VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        built = (
            timeseries.Panel()
            .height(8)
            .span(_WIDTH // 3)
            .legend(legend.placement(LegendPlacement.BOTTOM))
            .tooltip(tooltip)
            .fill_opacity(10)
            .min(None if any(" - " in query for query, _ in panel.queries) else 0)
        )
    built.title(panel.title).unit(panel.unit).datasource(_SOURCE)
    if panel.meaning:
        built.description(panel.meaning)
    for number, (query, legend_format) in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query).ref_id(chr(ord("A") + number)).legend_format(legend_format)
        built.with_target(target.exemplar(True) if panel.exemplars else target)
    return built


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [Threshold(color="green")]
    if panel.bad_above is not None:
        steps.append(Threshold(value=panel.bad_above + 1e-9, color="red"))
    if panel.bad_below is not None:
        steps = [Threshold(color="red"), Threshold(value=panel.bad_below, color="green")]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _values_of(name: str, label: str, query: str) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(name).id(name).label(label).datasource(_SOURCE).query(query)
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True).all_value(".*")


def built() -> str:
    """The dashboard as JSON."""
    made = (
        dashboard.Dashboard("kvcache")
        .uid("kvcache")
        .tags(["kvcache", "llm"])
        .description("Fleet, truth, routing quality, latency and resources of kvcache.")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").id("datasource").label("Prometheus").type("prometheus")
        )
        .with_variable(_values_of("job", "job", "label_values(kvcache_native_compiled, job)"))
        .with_variable(
            _values_of("instance", "replica", 'label_values(kvcache_native_compiled{job=~"$job"}, instance)')
        )
    )
    numbers = count(1)
    for title, panels in ROWS:
        made.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            made.with_panel(_build(panel).id(next(numbers)))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(made.build())), indent=2) + "\n"


def main(arguments: list[str]) -> None:
    text = built()
    if "--check" in arguments:
        if FILE.read_text(encoding="utf-8") != text:
            sys.exit("deploy/grafana/dashboard.json is out of date: run python -m scripts.grafana_dashboard")
        return
    FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
