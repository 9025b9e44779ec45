"""Ordered, bounded processing of keyed records: lanes, offsets, slots, retries and waits."""
