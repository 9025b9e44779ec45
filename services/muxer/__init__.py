"""The muxer: muxes a track with its video."""
