"""The `segue doctor` command: checks of this machine and its servers."""
