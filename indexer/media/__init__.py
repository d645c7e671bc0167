"""Decoding of media files in confined child processes."""
