"""What at least two services use: the event contract, media values, ports and their adapters."""
