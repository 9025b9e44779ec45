"""Faults: services die, freeze and come back; a history is written, and a checker judges it."""
