-- What runs are estimated to cost, and what the cache saved. An older api beside a newer one
-- neither reads nor writes these.

ALTER TABLE runs ADD COLUMN estimate jsonb;               -- as answered; null: begun by upstream or an older api
ALTER TABLE scenes ADD COLUMN saved_usd double precision; -- null: not from the cache
