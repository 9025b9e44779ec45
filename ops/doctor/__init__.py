"""Commands about this machine: its checks, and the generated files of a source checkout."""
