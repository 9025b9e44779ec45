-- What became of dead letters that an operator put back or put away; one that is not here waits.

CREATE TABLE dead_letters (
    epoch     text NOT NULL,                              -- of the log: places of another one are others
    topic     text NOT NULL,                              -- the dead-letter topic, without prefix
    partition integer NOT NULL,
    "offset"  bigint NOT NULL,
    job_id    text,                                       -- null: the record is no event
    run       integer,
    fate      text NOT NULL,                              -- requeued, discarded
    action    bigint NOT NULL,                            -- the row of operator_actions
    marked_at timestamptz NOT NULL,                       -- before anything is done with it
    done_at   timestamptz,                                -- null: the command stopped before it came to it
    PRIMARY KEY (epoch, topic, partition, "offset")
);
CREATE INDEX dead_letters_action ON dead_letters (action);
