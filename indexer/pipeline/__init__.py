"""The stages of one unit of a video: read, detect shots, encode, assemble clips."""
