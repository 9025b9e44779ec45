"""The harness of the fault suite: steps, processes, checker and simulation."""
