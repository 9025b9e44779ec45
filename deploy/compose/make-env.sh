#!/bin/sh
# Writes .env with the secrets that docker-compose.yml asks for, freshly drawn, for its owner alone.
# An .env that is there keeps its lines; only secrets that it lacks are added.
set -eu
umask 077
file=${1:-.env}
draw() { od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n'; }
# A cluster's id is 16 bytes in base64 for URLs, without padding.
cluster_id() { head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '=\n'; }
set_unless_there() {
  grep -q "^$1=." "$file" 2>/dev/null || printf '%s=%s\n' "$1" "$2" >>"$file"
}
[ -e "$file" ] || echo "writing $file with fresh secrets; .env.example has what else may be in it"
set_unless_there POSTGRES_PASSWORD "$(draw 24)"
set_unless_there MINIO_ACCESS_KEY "segue-$(draw 4)"
set_unless_there MINIO_SECRET_KEY "$(draw 24)"
set_unless_there SEGUE_SEGMENT_KEYS "$(draw 24)"
set_unless_there GRAFANA_PASSWORD "$(draw 12)"
set_unless_there KAFKA_CLUSTER_ID "$(cluster_id)"
