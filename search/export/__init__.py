"""Moments as files for other programs: subtitles, edit lists, playlists, tables, tags. Records in, bytes out."""
