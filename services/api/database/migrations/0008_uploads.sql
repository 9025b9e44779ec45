-- Uploaded files: those that no job references have a quota, and are deleted after some time.

CREATE TABLE uploads (
    key           text PRIMARY KEY,                       -- in the object store
    size_bytes    bigint NOT NULL,
    uploaded_at   timestamptz NOT NULL,                   -- the last time
    is_referenced boolean NOT NULL DEFAULT false          -- by a job or a run; never reset
);
CREATE INDEX uploads_unreferenced ON uploads (uploaded_at) WHERE NOT is_referenced;
CREATE INDEX jobs_video_object ON jobs ((video->>'object')) WHERE video->>'object' IS NOT NULL;
CREATE INDEX jobs_style_object ON jobs ((audio_params->'style_audio'->>'object'))
    WHERE audio_params->'style_audio'->>'object' IS NOT NULL;
CREATE INDEX runs_video_object ON runs ((video->>'object')) WHERE video->>'object' IS NOT NULL;
CREATE INDEX runs_style_object ON runs ((params->'style_audio'->>'object'))
    WHERE params->'style_audio'->>'object' IS NOT NULL;
