"""Commands that replay topics and report consumer lag."""
