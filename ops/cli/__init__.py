"""Shared parts of every command: options, output, exit codes and the operator context."""
