"""What stands beside the code: image, compose file, manifests, dashboard."""
