#!/bin/sh
# Writes .env with new random secrets for docker-compose.yml, readable by its owner only.
# An existing .env keeps its lines; only missing secrets are added.
set -eu
umask 077
file=${1:-.env}
random_hex() { od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n'; }
# A Kafka cluster id is 16 bytes in URL-safe base64 without padding.
cluster_id() { head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '=\n'; }
add_if_missing() {
  grep -q "^$1=." "$file" 2>/dev/null || printf '%s=%s\n' "$1" "$2" >>"$file"
}
[ -e "$file" ] || echo "Writing $file with new secrets; see .env.example for all settings."
add_if_missing POSTGRES_PASSWORD "$(random_hex 24)"
add_if_missing POSTGRES_ADMIN_PASSWORD "$(random_hex 24)"
add_if_missing MINIO_ROOT_USER "admin-$(random_hex 4)"
add_if_missing MINIO_ROOT_PASSWORD "$(random_hex 24)"
add_if_missing MINIO_ACCESS_KEY "segue-$(random_hex 4)"
add_if_missing MINIO_SECRET_KEY "$(random_hex 24)"
add_if_missing SEGUE_SEGMENT_KEYS "$(random_hex 24)"
add_if_missing GRAFANA_PASSWORD "$(random_hex 12)"
add_if_missing KAFKA_CLUSTER_ID "$(cluster_id)"
