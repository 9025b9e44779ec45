"""Metrics: every metric with its unit and meaning, in one place.

Prometheus names and base units; no job ids as labels. A new metric is a line here and its
call site; the form test fails on one that nobody uses.
"""

from prometheus_client import Counter, Histogram

RECORDS_TOTAL = Counter(
    "segue_records_total", "Records worked off, by how it ended.", ["service", "topic", "outcome"]
)
DEAD_LETTERS_TOTAL = Counter(
    "segue_dead_letters_total", "Records parked on a dead-letter topic.", ["service", "topic"]
)
SKIPPED_TOTAL = Counter(
    "segue_events_skipped_total", "Events of a superseded or ended run.", ["service", "topic"]
)
SCENES_TOTAL = Counter(
    "segue_generator_scenes_total", "Scenes finished, by how they were made.", ["origin"]
)
REQUESTS_REFUSED_TOTAL = Counter(
    "segue_api_requests_refused_total", "Requests told to come again: too many were under way."
)
PREDICTIONS_TOTAL = Counter(
    "segue_generator_predictions_total", "Paid or payable calls to a provider.", ["provider"]
)
CACHE_TOTAL = Counter(
    "segue_generator_cache_total", "Questions to the cache of scenes, by answer.", ["outcome"]
)
COST_USD_TOTAL = Counter(
    "segue_generator_cost_usd_total", "US dollars that providers charged.", ["provider"]
)
SAVED_USD_TOTAL = Counter(
    "segue_generator_saved_usd_total", "US dollars that cached clips once cost.", ["provider"]
)
GENERATION_SECONDS = Histogram(
    "segue_generator_generation_seconds",
    "From asking for a clip to having it.",
    ["provider"],
    buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640),
)
MERGE_SECONDS = Histogram("segue_merger_merge_seconds", "Joining one track, storing included.")
MUX_SECONDS = Histogram("segue_muxer_mux_seconds", "Muxing one video, fetching included.")
