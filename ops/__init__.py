"""ops: the `segue` command, the hand of the newcomer and of the operator."""
