"""Exports models to ONNX in child processes, and caches the exports."""
