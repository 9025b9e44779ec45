#!/bin/sh
# Creates the account of the services in versitygw: it may create and own buckets, and administer
# nothing. Runs in versitygw's own image, at every start; an account that exists stays.
set -eu
endpoint=${MINIO_ENDPOINT:-http://minio:9000}
export ADMIN_ACCESS_KEY="$MINIO_ROOT_USER" ADMIN_SECRET_KEY="$MINIO_ROOT_PASSWORD"
admin() { versitygw admin --endpoint-url "$endpoint" "$@"; }
if admin list-users | grep -q "^$MINIO_ACCESS_KEY[[:space:]]"; then
  admin update-user --access "$MINIO_ACCESS_KEY" --secret "$MINIO_SECRET_KEY"
else
  admin create-user --access "$MINIO_ACCESS_KEY" --secret "$MINIO_SECRET_KEY" --role userplus
fi
echo "The account of the services may create buckets, and use its own."
