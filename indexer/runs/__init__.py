"""Whole runs over a library: ingest, reindex, retry, repair, upgrade, and what they share."""
