"""Checks and repairs of a library: verify, repair, rebuild, and complete removal."""
