"""The built-in synthesizer: offline and deterministic."""
