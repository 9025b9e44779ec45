"""The S3 object store: MinIO and compatible servers."""
