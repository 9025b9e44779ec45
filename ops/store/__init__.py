"""Commands for the object store: retention and links."""
