"""Models exported to ONNX, in child processes, and the cache that holds them."""
