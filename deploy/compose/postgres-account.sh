#!/bin/sh
# Creates the account of the api, which owns the database and is no superuser. PostgreSQL's image runs
# this once, when it creates its data; an older data folder keeps its account.
set -eu
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set password="$SEGUE_DATABASE_PASSWORD" <<'SQL'
CREATE ROLE segue LOGIN PASSWORD :'password'
  NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
CREATE DATABASE segue OWNER segue;
REVOKE ALL ON DATABASE segue FROM PUBLIC;
SQL
