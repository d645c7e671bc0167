"""Confidence labels, calibrated on questions that the library answers by construction."""
