"""Models that compare sounds with words: their input, their encoder, and the sounds that calibrate them."""
