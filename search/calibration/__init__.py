"""Confidence labels, calibrated on known items of the library itself."""
