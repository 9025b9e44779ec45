"""Programs that native servers need: wheels, Java, Go and their cache."""
