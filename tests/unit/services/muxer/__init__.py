"""The muxer's rules and its way to the outside."""
