"""Metrics page: `docs/metrics.md`, every metric for people, from the catalogue itself.

Pure.
"""

from collections.abc import Sequence

from prometheus_client.metrics import MetricWrapperBase

from shared.telemetry import metrics

Rows = list[tuple[str, MetricWrapperBase]]

_HEAD = """\
# Metrics

Generated from `shared/telemetry/metrics.py` by `make schemas`; do not edit.

`GET /metrics` of each service (the api on its port, the others on `SEGUE_HEALTH_PORT`) has them in
Prometheus' text format. Names and base units are Prometheus'; no label holds a job's id or
anything else that a client chose. In the embedded stack the api's `/metrics` has the figures of
all services. Beside them are those of Prometheus' client: `process_…` and `python_…`.

A counter only rises while its process lives: ask for `rate()` or `increase()`. A histogram has
`_bucket`, `_sum` and `_count`. A gauge is a state, worked out when it is asked for.
The rules are in [alerts.yml](../deploy/observability/alerts.yml), what to do about them is in the
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
    """Every metric with the name under which it is exposed, in the order of the catalogue."""
    found = [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]
    return [(exposed(one), one) for one in found]


def exposed(metric: MetricWrapperBase) -> str:
    """The name of a family as Prometheus knows it; of a histogram without its endings."""
    (family,) = metric.describe()
    return f"{family.name}_total" if family.type == "counter" else family.name


def page() -> str:
    """The whole page."""
    parts: dict[str, Rows] = {"Every service": [], **{title: [] for title in _PARTS.values()}}
    for name, metric in catalogue():
        title = next((title for prefix, title in _PARTS.items() if name.startswith(prefix)), None)
        parts[title or "Every service"].append((name, metric))
    return _HEAD + "\n".join(_table(title, rows) for title, rows in parts.items())


def labels_of(metric: MetricWrapperBase) -> Sequence[str]:
    """The labels of a metric."""
    return tuple(metric._labelnames)  # noqa: SLF001 - it has no public way to say


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
    told = [unit for word, unit in _UNITS.items() if word == words[-1]]
    return told[0] if told else ("1 or 0" if _is_state(metric) else "count")


def _is_state(metric: MetricWrapperBase) -> bool:
    return metric in {metrics.SERVER_UP, metrics.CONSUMING, metrics.PROVIDER_PAUSED}
