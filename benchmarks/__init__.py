"""benchmarks: how fast, against what, repeatable."""
