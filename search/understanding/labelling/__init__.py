"""Labels of clips and videos: classes from a file, zero-shot or by examples, with calibrated probabilities."""
