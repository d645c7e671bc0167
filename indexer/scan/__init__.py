"""The files of a folder: videos, their sidecars, and videos that are missing."""
