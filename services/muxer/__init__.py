"""muxer: the track under the picture."""
