"""The api's rules: run specification, run view, progress, redrive, cost. No I/O."""
