"""embedded: the whole system on one machine, and the real servers it can start there."""
