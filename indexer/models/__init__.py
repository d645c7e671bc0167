"""Model files on disk, their ONNX exports, and the encoders that a run opens. Start at `factory`."""
