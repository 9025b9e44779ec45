"""The Prometheus metrics of all services, with their units and meaning.

Prometheus' naming rules and base units; no label holds a job id. The form test fails on a metric
without a call site. docs/metrics.md is generated from this module. Gauges of a state are computed
at each scrape (`consumer_metrics.py`).
"""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # creation times double the scrape and are not used

# -- every service -----------------------------------------------------------------------------

BUILD_INFO = Gauge(
    "segue_build_info", "Always 1; the label is the running version.", ["service", "version"]
)
SERVER_UP = Gauge(
    "segue_server_up",
    "1 if a required server answers, 0 if not; checked at each scrape.",
    ["service", "server"],
)
CONNECTIONS_CLOSED_TOTAL = Counter(
    "segue_http_connections_closed_total",
    "HTTP connections closed by a limit: head (not complete in time), rest (of an unread body), "
    "write (the client does not read), limit (too many connections).",
    ["reason"],
)
CONSUMING = Gauge(
    "segue_consuming", "1 while the service consumes records from Kafka, else 0.", ["service"]
)
LAG_SECONDS = Gauge(
    "segue_lag_seconds",
    "Age of the oldest unfinished record of this process' partitions; 0 without any.",
    ["service", "topic"],
)
LAG_RECORDS = Gauge(
    "segue_lag_records",
    "Records of this process' partitions from the oldest unfinished one to the end.",
    ["service", "topic"],
)
RECORDS_TOTAL = Counter(
    "segue_records_total", "Processed records by outcome.", ["service", "topic", "outcome"]
)
RECORD_SECONDS = Histogram(
    "segue_record_seconds",
    "Time from the record's timestamp to the end of processing, including queueing and retries.",
    ["service", "topic"],
    buckets=(0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400),
)
WORK_SECONDS = Histogram(
    "segue_work_seconds",
    "Processing time of a record once its lane is free, including waits and retries.",
    ["service", "topic"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280),
)
WORK_OLDEST_SECONDS = Gauge(
    "segue_work_oldest_seconds",
    "Processing time so far of the oldest record in progress; 0 without any."
    " Generator: its oldest unfinished scene.",
    ["service"],
)
RETRIES_TOTAL = Counter(
    "segue_retries_total",
    "Attempts that failed because a dependency was busy or unavailable, and are retried.",
    ["service", "topic"],
)
WORK_DEDUPLICATED_TOTAL = Counter(
    "segue_work_deduplicated_total",
    "Work that was not repeated: already_stored (the result exists; its event is published again),"
    " in_progress (a redelivered record joins its running work), adopted (a prediction of a process"
    " that died).",
    ["service", "reason"],
)
SKIPPED_TOTAL = Counter(
    "segue_events_skipped_total",
    "Skipped events of a superseded or ended run.",
    ["service", "topic"],
)
FAILURES_TOTAL = Counter(
    "segue_job_failures_total", "Runs that this service failed, by the code of job.failed.",
    ["service", "code"],
)  # fmt: skip
DEAD_LETTERS_TOTAL = Counter(
    "segue_dead_letters_total", "Records published to a dead-letter topic.", ["service", "topic"]
)
DEAD_LETTERS_IN_ROW = Gauge(
    "segue_dead_letters_in_row",
    "Consecutive dead letters since the last successful record.",
    ["service"],
)
DEAD_LETTERS_IN_ROW_MAX = Gauge(
    "segue_dead_letters_in_row_max", "Consecutive dead letters that stop the consumer.", ["service"]
)
UNDECODABLE_TOTAL = Counter(
    "segue_undecodable_total",
    "Records and batches that could not be decoded; the partition continued behind them.",
    ["service", "topic"],
)
OFFSET_RESETS_TOTAL = Counter(
    "segue_offset_resets_total",
    "Times that the next offset was not in the log (retention, topic created again), so that"
    " reading continued at its start.",
    ["service", "topic"],
)
BLOCKED_OLDEST_SECONDS = Gauge(
    "segue_blocked_oldest_seconds",
    "Time for which the oldest finished or failed record has waited to publish its event or dead"
    " letter, or to park its run; 0 without any.",
    ["service"],
)
LANES = Gauge("segue_lanes", "Lanes with an unfinished record.", ["service"])
IN_FLIGHT = Gauge("segue_records_in_flight", "Records received and not yet committed.", ["service"])
IN_FLIGHT_MAX = Gauge(
    "segue_records_in_flight_max",
    "Limit of records in flight; the consumer pauses at it.",
    ["service"],
)
COMMIT_DUE_SECONDS = Gauge(
    "segue_commit_due_seconds",
    "Time since a commit became due without one succeeding; 0 if none is due.",
    ["service"],
)
COMMITS_FAILED_TOTAL = Counter(
    "segue_commits_failed_total", "Commits that Kafka did not confirm.", ["service"]
)

# -- api ---------------------------------------------------------------------------------------

REQUESTS_TOTAL = Counter(
    "segue_api_requests_total",
    "Completed requests by route template; health requests are not counted.",
    ["method", "route", "status"],
)
REQUEST_SECONDS = Histogram(
    "segue_api_request_seconds",
    "Time to the start of the response.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
REQUESTS_REFUSED_TOTAL = Counter(
    "segue_api_requests_refused_total",
    "Requests rejected with 503 because too many were in progress.",
)
OUTBOX_RECORDS = Gauge(
    "segue_api_outbox_records",
    "Unpublished outbox records, counted up to 10,000. Every replica reports the same.",
)
OUTBOX_OLDEST_SECONDS = Gauge(
    "segue_api_outbox_oldest_seconds",
    "Age of the oldest unpublished outbox record; 0 without any.",
)
UPLOADS_UNREFERENCED = Gauge(
    "segue_api_uploads_unreferenced",
    "Uploads that no job references. Every replica reports the same.",
)
UPLOADS_UNREFERENCED_BYTES = Gauge(
    "segue_api_uploads_unreferenced_bytes",
    "Size of the uploads that no job references; its limit is SEGUE_UPLOAD_QUOTA_BYTES.",
)
UPLOADS_DELETED_TOTAL = Counter(
    "segue_api_uploads_deleted_total", "Deleted uploads that no job referenced."
)
RUNS = Gauge(
    "segue_api_runs",
    "Unfinished runs by status. Every replica reports the same.",
    ["status"],
)
RUN_OLDEST_SECONDS = Gauge(
    "segue_api_run_oldest_seconds", "Age of the oldest unfinished run; 0 without any."
)
JOB_SECONDS = Histogram(
    "segue_api_job_seconds",
    "Duration of a run from its request to its end, by the times of its events.",
    ["outcome"],
    buckets=(2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 2400, 3600, 7200, 14400),
)

# -- generator ---------------------------------------------------------------------------------

SCENES_TOTAL = Counter("segue_generator_scenes_total", "Finished scenes by origin.", ["origin"])
SCENES_WAITING = Gauge(
    "segue_generator_scenes_waiting",
    "Scenes that wait for the provider now, by reason: busy, paused.",
    ["provider", "reason"],
)
GENERATION_SECONDS = Histogram(
    "segue_generator_generation_seconds",
    "Time from requesting a clip to having it.",
    ["provider"],
    buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640),
)
PREDICTIONS_TOTAL = Counter(
    "segue_generator_predictions_total",
    "Predictions submitted to a provider (billable).",
    ["provider"],
)
PREDICTIONS_IN_FLIGHT = Gauge(
    "segue_generator_predictions_in_flight", "Predictions in progress.", ["provider"]
)
CALLS_TOTAL = Counter(
    "segue_generator_calls_total",
    "Attempts at a clip by outcome: made, failed (unusable), void (a claim without a prediction),"
    " busy, paused.",
    ["provider", "outcome"],
)
THROTTLED_TOTAL = Counter(
    "segue_generator_throttled_total", "Requests that the provider throttled (429).", ["provider"]
)
WAITED_SECONDS_TOTAL = Counter(
    "segue_generator_waited_seconds_total",
    "Time that scenes waited for the provider, by reason: busy, paused.",
    ["provider", "reason"],
)
PROVIDER_PAUSED = Gauge(
    "segue_generator_provider_paused",
    "1 while the provider rejects every request: no key, no credit.",
    ["provider"],
)
CACHE_TOTAL = Counter(
    "segue_generator_cache_total", "Lookups in the scene cache by outcome.", ["outcome"]
)
COST_USD_TOTAL = Counter(
    "segue_generator_cost_usd_total", "US dollars charged by providers.", ["provider"]
)
SAVED_USD_TOTAL = Counter(
    "segue_generator_saved_usd_total", "US dollars that cached clips had cost.", ["provider"]
)

# -- merger and muxer --------------------------------------------------------------------------

MERGE_SECONDS = Histogram(
    "segue_merger_merge_seconds",
    "Duration of merging one track, including its storage.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
)
SEAMS_TOTAL = Counter("segue_merger_seams_total", "Seams of tracks by kind.", ["kind"])
SEAM_STEP_DECIBELS = Histogram(
    "segue_merger_seam_step_decibels",
    "Absolute level change at a seam.",
    ["kind"],
    buckets=(0.5, 1, 2, 3, 4, 6, 9, 12, 18),
)
SEAM_CLICK_RATIO = Histogram(
    "segue_merger_seam_click_ratio",
    "Largest second difference at a seam relative to its surroundings: 3 to 6 is music.",
    ["kind"],
    buckets=(3, 4, 6, 8, 12, 20, 40, 80, 160),
)
SEAM_CORRELATION_RATIO = Histogram(
    "segue_merger_seam_correlation_ratio",
    "Correlation of the window with the tail that it repeats; 1: the same music.",
    buckets=(0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1),
)
MUX_SECONDS = Histogram(
    "segue_muxer_mux_seconds",
    "Duration of muxing one video, including its download.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
)
