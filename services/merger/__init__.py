"""The merger: joins the segments of a run into one track."""
