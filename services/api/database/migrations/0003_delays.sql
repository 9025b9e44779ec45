-- What a scene waits for, as long as it does.

ALTER TABLE scenes ADD COLUMN delay jsonb;                -- code, reason, since; null: it waits for nobody
CREATE INDEX scenes_delayed ON scenes (job_id, run) WHERE delay IS NOT NULL AND state = 'waiting';
