"""Recorded streams of events, and the tests that today's code still reads them."""
