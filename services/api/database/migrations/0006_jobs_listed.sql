-- What operators look through: the newest runs of a status, and what they cost; among a million too.

CREATE INDEX runs_by_status ON runs (status, started_at, job_id);
CREATE INDEX jobs_pending ON jobs (created_at, job_id) WHERE run = 0;    -- known, and never asked for
CREATE INDEX scenes_paid ON scenes (cost_usd) WHERE cost_usd > 0;        -- what was spent in all
