"""Runs all of Segue on this machine, with servers that it starts there."""
