-- The provider that each run started with, and the provider and prices of the running api, which
-- operator commands quote. An older api beside a newer one neither reads nor writes them.

ALTER TABLE runs ADD COLUMN provider text;                -- null: started by upstream or an older api

CREATE TABLE pricing (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    provider       text NOT NULL,                         -- of runs that name none
    usd_per_s      double precision NOT NULL,             -- per second of Replicate's hardware
    window_s       integer NOT NULL,
    style_window_s integer NOT NULL,
    recorded_at    timestamptz NOT NULL                   -- the last start of an api
);
