"""Answers to questions: quotations of speech and screen, and sentences of an endpoint that rest on them."""
