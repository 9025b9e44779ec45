"""Ordered, bounded processing of keyed records: lanes, offsets, slots and retries."""
