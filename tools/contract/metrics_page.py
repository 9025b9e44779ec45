"""Builds `docs/metrics.md`, the reference of every metric, from the catalogue."""

from collections.abc import Sequence

from prometheus_client.metrics import MetricWrapperBase

from shared.telemetry import metrics

Rows = list[tuple[str, MetricWrapperBase]]

_HEAD = """\
# Metrics

Generated from `shared/telemetry/metrics.py` by `make schemas`; do not edit.

`GET /metrics` of each service (the api on its port, the others on `SEGUE_HEALTH_PORT`) returns them
in Prometheus' text format, with Prometheus' naming and base units. No label contains a job id or
another value chosen by a client. In the embedded stack the api's `/metrics` includes all services.
Prometheus' client adds `process_…` and `python_…`.

A counter resets when its process restarts: use `rate()` or `increase()`. A histogram has `_bucket`,
`_sum` and `_count`. A gauge is computed when it is scraped.
The alert rules are in [alerts.yml](../deploy/observability/alerts.yml), the response to each in the
[runbook](runbook.md), the panels in [panels.yml](../deploy/observability/grafana/panels.yml).

"""
_PARTS = {
    "segue_api_": "Api",
    "segue_generator_": "Generator",
    "segue_merger_": "Merger",
    "segue_muxer_": "Muxer",
}
_UNITS = {
    "seconds": "seconds",
    "usd": "US dollars",
    "decibels": "decibels",
    "ratio": "ratio",
    "records": "records",
    "info": "1",
}


def catalogue() -> Rows:
    """Return every metric with its exported name, in the order of the catalogue."""
    collectors = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    return [(exported_name(metric), metric) for metric in collectors]


def exported_name(metric: MetricWrapperBase) -> str:
    """Return the exported name; of a histogram without `_bucket`, `_sum` and `_count`."""
    (family,) = metric.describe()
    return f"{family.name}_total" if family.type == "counter" else family.name


def page() -> str:
    """Return the text of the page."""
    parts: dict[str, Rows] = {"Every service": [], **{title: [] for title in _PARTS.values()}}
    for name, metric in catalogue():
        title = next((title for prefix, title in _PARTS.items() if name.startswith(prefix)), None)
        parts[title or "Every service"].append((name, metric))
    return _HEAD + "\n".join(_table(title, rows) for title, rows in parts.items())


def labels_of(metric: MetricWrapperBase) -> Sequence[str]:
    """Return the labels of a metric."""
    return tuple(metric._labelnames)  # noqa: SLF001 - there is no public attribute


def _table(title: str, rows: Rows) -> str:
    head = (
        f"## {title}\n",
        "| Metric | Type | Unit | Labels | Meaning |",
        "|---|---|---|---|---|",
    )
    return "\n".join([*head, *(_row(name, metric) for name, metric in rows), ""])


def _row(name: str, metric: MetricWrapperBase) -> str:
    (family,) = metric.describe()
    labels = ", ".join(f"`{label}`" for label in labels_of(metric))
    cells = (f"`{name}`", family.type, _unit(name, metric), labels, family.documentation)
    return f"| {' | '.join(cells)} |"


def _unit(name: str, metric: MetricWrapperBase) -> str:
    words = name.removesuffix("_total").split("_")
    units = [unit for word, unit in _UNITS.items() if word == words[-1]]
    return units[0] if units else ("1 or 0" if _is_state(metric) else "count")


def _is_state(metric: MetricWrapperBase) -> bool:
    return metric in {metrics.SERVER_UP, metrics.CONSUMING, metrics.PROVIDER_PAUSED}
