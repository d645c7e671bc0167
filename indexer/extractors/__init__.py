"""One modality a file: from the frames, the audio and the metadata of a unit to its track."""
