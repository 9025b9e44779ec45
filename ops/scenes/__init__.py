"""Scenes of a film: the `segue scenes` command."""
