#!/bin/sh
# Creates the account of the services in MinIO: it may use one bucket, and administer nothing.
# Runs in MinIO's own image, at every start; what exists already stays.
set -eu
export MC_CONFIG_DIR=/tmp/mc
bucket=${MINIO_BUCKET:-segue}
mc -q alias set admin "${MINIO_ENDPOINT:-http://minio:9000}" "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD" >/dev/null
cat >/tmp/policy.json <<POLICY
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": ["s3:CreateBucket", "s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
      "Resource": ["arn:aws:s3:::$bucket"]
    },
    {
      "Effect": "Allow",
      "Action": [
        "s3:GetObject", "s3:PutObject", "s3:DeleteObject",
        "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"
      ],
      "Resource": ["arn:aws:s3:::$bucket/*"]
    }
  ]
}
POLICY
mc -q admin policy create admin segue-services /tmp/policy.json >/dev/null
mc -q admin user add admin "$MINIO_ACCESS_KEY" "$MINIO_SECRET_KEY" >/dev/null
# attaching a policy again is an error
mc -q admin user info admin "$MINIO_ACCESS_KEY" | grep -q segue-services ||
  mc -q admin policy attach admin segue-services --user "$MINIO_ACCESS_KEY" >/dev/null
echo "The account of the services may use the bucket $bucket."
