"""Image models of open_clip: their towers, and the encoder that runs them on GPUs or the CPU."""
