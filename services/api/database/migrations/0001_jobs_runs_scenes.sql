-- Jobs, runs and scenes, the outbox, and the projection's offsets.

CREATE TABLE jobs (
    job_id          text PRIMARY KEY,
    video           jsonb,                                -- {"url": …} or {"object": …}
    scenes          jsonb,                                -- as requested; null if upstream requested each scene
    audio_params    jsonb NOT NULL DEFAULT '{}',          -- from video.stitched: defaults of its runs
    stitched_hashes text[] NOT NULL DEFAULT '{}',         -- of every applied video.stitched, to recognise a replay
    run             integer NOT NULL DEFAULT 0,           -- the newest; 0: none
    progress        jsonb NOT NULL DEFAULT '{"audio_status": "pending", "stage": "audio_generation_pending"}',
    version         bigint NOT NULL DEFAULT 1,            -- incremented on every visible change
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);

CREATE TABLE runs (
    job_id       text NOT NULL REFERENCES jobs ON DELETE CASCADE,
    run          integer NOT NULL CHECK (run > 0),
    status       text NOT NULL,
    scene_count  integer NOT NULL DEFAULT 0,              -- 0: unknown
    params       jsonb,                                   -- null: unknown
    video        jsonb,
    request_hash text,                                    -- null: requested by upstream
    started_at   timestamptz NOT NULL,
    generated_at timestamptz,
    track        jsonb,                                   -- the decisive audio.merged
    muxed        jsonb,                                   -- the decisive video.muxed
    failure      jsonb,                                   -- the decisive job.failed
    cancelled    jsonb,                                   -- the decisive job.cancelled
    PRIMARY KEY (job_id, run)
);
CREATE INDEX runs_unfinished ON runs (job_id, run)
    WHERE status NOT IN ('completed', 'failed', 'cancelled', 'superseded');

CREATE TABLE scenes (
    job_id        text NOT NULL,
    run           integer NOT NULL,
    scene_index   integer NOT NULL CHECK (scene_index >= 0),
    spec          jsonb,                                  -- fields of SceneSpec, kept, anew
    state         text NOT NULL,
    origin        text,
    reason        text,
    object_key    text,
    duration_s    double precision,
    samples       bigint,
    provider      text,
    prediction_id text,
    generation_s  double precision,
    cost_usd      double precision,
    warnings      text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (job_id, run, scene_index),
    FOREIGN KEY (job_id, run) REFERENCES runs ON DELETE CASCADE
);

CREATE TABLE outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic         text NOT NULL,                          -- without prefix
    key           bytea,
    value         bytea,
    header_names  text[] NOT NULL,
    header_values bytea[] NOT NULL,
    created_at    timestamptz NOT NULL
);

CREATE TABLE epochs (
    epoch      text PRIMARY KEY,
    started_at timestamptz NOT NULL
);

CREATE TABLE projection_offsets (
    epoch       text NOT NULL,
    topic       text NOT NULL,                            -- with prefix
    partition   integer NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (epoch, topic, partition)
);

CREATE TABLE idempotency_keys (
    key          text PRIMARY KEY,
    request_hash text NOT NULL,
    status_code  integer,                                 -- null only inside the request's transaction
    answer       json,                                    -- not jsonb: byte for byte equal
    created_at   timestamptz NOT NULL
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
