-- The audit log: every operator command that writes.

CREATE TABLE operator_actions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    command    text NOT NULL,                             -- "replay", "dlq requeue", "cancel" …
    arguments  jsonb NOT NULL,
    who        text NOT NULL,                             -- SEGUE_OPERATOR, else user@host
    reason     text NOT NULL,
    state      text NOT NULL,                             -- running, done, interrupted, failed
    progress   jsonb NOT NULL DEFAULT '{}',               -- specific to the command: progress and result
    started_at timestamptz NOT NULL,
    ended_at   timestamptz
);
CREATE INDEX operator_actions_unfinished ON operator_actions (command) WHERE state <> 'done';
