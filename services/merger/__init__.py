"""merger: the segments of a run to one track."""
