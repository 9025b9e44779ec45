"""Tests of the deployment files: image, compose file, manifests, dashboard."""
