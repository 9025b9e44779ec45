-- Estimated cost of runs, and what the cache saved. An older api beside a newer one neither reads
-- nor writes these columns.

ALTER TABLE runs ADD COLUMN estimate jsonb;               -- as returned; null: started by upstream or an older api
ALTER TABLE scenes ADD COLUMN saved_usd double precision; -- null: not from the cache
