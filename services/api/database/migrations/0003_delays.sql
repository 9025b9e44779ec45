-- Why a scene waits for its provider, as long as it waits.

ALTER TABLE scenes ADD COLUMN delay jsonb;                -- code, reason, since; null: it does not wait
CREATE INDEX scenes_delayed ON scenes (job_id, run) WHERE delay IS NOT NULL AND state = 'waiting';
