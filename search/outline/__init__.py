"""Outlines of one video: its chapters, and a digest of its excerpts and sentences, each tested against chance."""
