"""Metrics: every metric with its unit and meaning, in one place.

Prometheus names and base units; no job ids as labels. A new metric is a line here and its
call site; the form test fails on one that nobody uses. docs/metrics.md is written from here.
What is a state and no event is worked out when Prometheus asks (`consuming.py`).
"""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # when a series began is of no use, and doubles what is scraped

# -- every service -----------------------------------------------------------------------------

BUILD_INFO = Gauge("segue_build_info", "1; which version runs.", ["service", "version"])
SERVER_UP = Gauge(
    "segue_server_up",
    "Whether a server that the service needs answers (1) or not (0), asked with each scrape.",
    ["service", "server"],
)
CONSUMING = Gauge(
    "segue_consuming", "1 while the service takes records from Kafka, 0 while not.", ["service"]
)
LAG_SECONDS = Gauge(
    "segue_lag_seconds",
    "Since the oldest record was written that this process was given and has not finished;"
    " 0 where there is none.",
    ["service", "topic"],
)
LAG_RECORDS = Gauge(
    "segue_lag_records",
    "Records of this process' partitions from the oldest that is not finished to the end.",
    ["service", "topic"],
)
RECORDS_TOTAL = Counter(
    "segue_records_total", "Records worked off, by how it ended.", ["service", "topic", "outcome"]
)
RECORD_SECONDS = Histogram(
    "segue_record_seconds",
    "From a record being written to its work being done: the wait in its lane, and every try.",
    ["service", "topic"],
    buckets=(0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400),
)
WORK_SECONDS = Histogram(
    "segue_work_seconds",
    "From a record's turn in its lane to its work being done, waits and tries included.",
    ["service", "topic"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280),
)
WORK_OLDEST_SECONDS = Gauge(
    "segue_work_oldest_seconds",
    "Since the turn came of the record that is worked on for the longest time; 0 without any."
    " Of the generator: its oldest unfinished scene.",
    ["service"],
)
RETRIES_TOTAL = Counter(
    "segue_retries_total",
    "Tries that will be made again, because something outside was busy or away.",
    ["service", "topic"],
)
REDONE_TOTAL = Counter(
    "segue_redone_total",
    "Work that came a second time: found (made before, said again), joined (a record read again"
    " while it runs), taken_up (a prediction of a process that died).",
    ["service", "how"],
)
SKIPPED_TOTAL = Counter(
    "segue_events_skipped_total", "Events of a superseded or ended run.", ["service", "topic"]
)
FAILURES_TOTAL = Counter(
    "segue_job_failures_total", "Runs that this service ended, by the code of job.failed.",
    ["service", "code"],
)  # fmt: skip
DEAD_LETTERS_TOTAL = Counter(
    "segue_dead_letters_total", "Records parked on a dead-letter topic.", ["service", "topic"]
)
DEAD_LETTERS_IN_ROW = Gauge(
    "segue_dead_letters_in_row",
    "Dead letters since the last record that went well.",
    ["service"],
)
DEAD_LETTERS_IN_ROW_MAX = Gauge(
    "segue_dead_letters_in_row_max", "So many in a row stop the consumer.", ["service"]
)
LANES = Gauge("segue_lanes", "Lanes with a record that is not finished.", ["service"])
IN_FLIGHT = Gauge("segue_records_in_flight", "Records taken and not let go.", ["service"])
IN_FLIGHT_MAX = Gauge("segue_records_in_flight_max", "At so many no more are taken.", ["service"])
COMMIT_DUE_SECONDS = Gauge(
    "segue_commit_due_seconds",
    "How long something was let go and nothing was committed since; 0 where nothing is due.",
    ["service"],
)
COMMITS_FAILED_TOTAL = Counter(
    "segue_commits_failed_total", "Commits that Kafka did not confirm.", ["service"]
)

# -- api ---------------------------------------------------------------------------------------

REQUESTS_TOTAL = Counter(
    "segue_api_requests_total",
    "Requests answered, by the template of the path; those of health are not counted.",
    ["method", "route", "status"],
)
REQUEST_SECONDS = Histogram(
    "segue_api_request_seconds",
    "Until the head of the answer was sent.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
REQUESTS_REFUSED_TOTAL = Counter(
    "segue_api_requests_refused_total", "Requests told to come again: too many were under way."
)
OUTBOX_RECORDS = Gauge(
    "segue_api_outbox_records",
    "Records that wait for Kafka in PostgreSQL, counted up to 10,000. Every replica says the same.",
)
OUTBOX_OLDEST_SECONDS = Gauge(
    "segue_api_outbox_oldest_seconds",
    "Since the oldest of them was put in; 0 where there is none.",
)
RUNS = Gauge(
    "segue_api_runs",
    "Runs that are not done, by where they stand. Every replica says the same.",
    ["status"],
)
RUN_OLDEST_SECONDS = Gauge(
    "segue_api_run_oldest_seconds", "Since the oldest of them was asked for; 0 without any."
)
JOB_SECONDS = Histogram(
    "segue_api_job_seconds",
    "A whole run, from being asked for to its end, by the moments of its events.",
    ["outcome"],
    buckets=(2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 2400, 3600, 7200, 14400),
)

# -- generator ---------------------------------------------------------------------------------

SCENES_TOTAL = Counter(
    "segue_generator_scenes_total", "Scenes finished, by how they were made.", ["origin"]
)
SCENES_WAITING = Gauge(
    "segue_generator_scenes_waiting",
    "Scenes that wait for the provider now, by why: busy, paused.",
    ["provider", "why"],
)
GENERATION_SECONDS = Histogram(
    "segue_generator_generation_seconds",
    "From asking for a clip to having it.",
    ["provider"],
    buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640),
)
PREDICTIONS_TOTAL = Counter(
    "segue_generator_predictions_total", "Paid or payable calls to a provider.", ["provider"]
)
PREDICTIONS_IN_FLIGHT = Gauge(
    "segue_generator_predictions_in_flight", "Predictions that are waited for.", ["provider"]
)
CALLS_TOTAL = Counter(
    "segue_generator_calls_total",
    "Attempts at a clip: made, failed (not taken), void (a claim that led to nothing), busy,"
    " paused.",
    ["provider", "outcome"],
)
THROTTLED_TOTAL = Counter(
    "segue_generator_throttled_total", "Times the provider asked for patience (429).", ["provider"]
)
WAITED_SECONDS_TOTAL = Counter(
    "segue_generator_waited_seconds_total",
    "Time that scenes were told to wait, by why: busy, paused.",
    ["provider", "why"],
)
PROVIDER_PAUSED = Gauge(
    "segue_generator_provider_paused",
    "1 while the provider refuses everyone: no key, no credit.",
    ["provider"],
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

# -- merger and muxer --------------------------------------------------------------------------

MERGE_SECONDS = Histogram(
    "segue_merger_merge_seconds",
    "Joining one track, storing included.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
)
SEAMS_TOTAL = Counter("segue_merger_seams_total", "Joints of tracks, by kind.", ["kind"])
SEAM_STEP_DECIBELS = Histogram(
    "segue_merger_seam_step_decibels",
    "Change of level at a joint, up or down alike.",
    ["kind"],
    buckets=(0.5, 1, 2, 3, 4, 6, 9, 12, 18),
)
SEAM_CLICK_RATIO = Histogram(
    "segue_merger_seam_click_ratio",
    "Largest second difference at a joint over what is usual there: 3 to 6 is music.",
    ["kind"],
    buckets=(3, 4, 6, 8, 12, 20, 40, 80, 160),
)
SEAM_CORRELATION_RATIO = Histogram(
    "segue_merger_seam_correlation_ratio",
    "How alike the window is to the tail that it repeats; 1 is the same music.",
    buckets=(0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1),
)
MUX_SECONDS = Histogram(
    "segue_muxer_mux_seconds",
    "Muxing one video, fetching included.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
)
