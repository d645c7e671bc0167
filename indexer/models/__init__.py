"""Models: what they are, where they lie, and the encoders made of them."""
