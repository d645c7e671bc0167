"""Media for browsers and editors: which rung of the ladder plays a file, spans as streams, cuts to MP4."""
