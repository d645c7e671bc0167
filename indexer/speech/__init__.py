"""Speech as transcript segments: subtitles first, else speech recognition."""
