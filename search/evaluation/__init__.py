"""Evaluation on questions with known answers, and the weights learned from them."""
