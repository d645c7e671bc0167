"""Texts and images to unit vectors by ONNX Runtime, for indexing and for queries."""
