"""Playlists: extended M3U, with the start and stop times of VLC."""

from __future__ import annotations

from vfindex.search.export.selection import Selection, file_url, one_line


def write_m3u8(selection: Selection) -> bytes:
    """Return a playlist of the excerpts. Times are those of a player: 0 is where the file begins."""
    lines = ["#EXTM3U", f"#PLAYLIST:{one_line(selection.title)}"]
    for excerpt in selection.excerpts:
        start_s, end_s = (max(0.0, time_s - excerpt.source.clock_s) for time_s in (excerpt.start_s, excerpt.end_s))
        title = one_line(" - ".join(part for part in (excerpt.source.name, excerpt.note or excerpt.text) if part))
        lines += [
            f"#EXTINF:{max(1, round(end_s - start_s))},{title}",
            f"#EXTVLCOPT:start-time={start_s:.3f}",
            f"#EXTVLCOPT:stop-time={end_s:.3f}",
            file_url(excerpt.source.path),
        ]
    return ("\n".join(lines) + "\n").encode()
