-- Indexes for the job list and the cost totals, fast among a million runs.

CREATE INDEX runs_by_status ON runs (status, started_at, job_id);
CREATE INDEX jobs_pending ON jobs (created_at, job_id) WHERE run = 0;    -- known, without a run
CREATE INDEX scenes_paid ON scenes (cost_usd) WHERE cost_usd > 0;        -- total cost
