-- Dead letters that an operator requeued or discarded; all others wait.

CREATE TABLE dead_letters (
    epoch     text NOT NULL,                              -- of the log; offsets of another log differ
    topic     text NOT NULL,                              -- the dead-letter topic, without prefix
    partition integer NOT NULL,
    "offset"  bigint NOT NULL,
    job_id    text,                                       -- null: the record is no event
    run       integer,
    fate      text NOT NULL,                              -- requeued, discarded
    action    bigint NOT NULL,                            -- id in operator_actions
    marked_at timestamptz NOT NULL,                       -- before the command handles it
    done_at   timestamptz,                                -- null: the command stopped before handling it
    PRIMARY KEY (epoch, topic, partition, "offset")
);
CREATE INDEX dead_letters_action ON dead_letters (action);
