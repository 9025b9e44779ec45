"""Audio and video: samples, decoding, probing and the ffmpeg process."""
