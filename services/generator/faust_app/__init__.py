"""The Faust application; no other package imports Faust."""
