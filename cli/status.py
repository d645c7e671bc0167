"""vfindex status"""

from __future__ import annotations

from typing import Any

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import clock, counted, path_text, plain, print_json
from vfindex.storage.records import MODALITIES

NAME = "status"
EXAMPLE = "vfindex status --json"


def command(library: LibraryOption = None, json: JsonOption = False) -> None:
    """Tell what the library holds, and what could not be indexed."""
    from vfindex.storage.library import Library, setup_from_json

    folder = library_folder(library)
    with Library.open(folder).snapshot() as snapshot:
        counts, by_modality = snapshot.counts(), snapshot.modality_counts()
        stored = snapshot.get("setup")
        generation = snapshot.generation()
        videos = snapshot.videos()
        run = snapshot.last_run()
    setup = setup_from_json(stored) if stored else None
    failed = [
        {"path": path_text(place.path), "state": video.state, **(video.problem or {})}
        for video in videos
        if video.state in ("failed", "quarantined", "partial")
        for place in video.locations
    ]
    document: dict[str, Any] = {
        "library": str(folder),
        "preset": setup.preset if setup else None,
        "sampling": setup.sampling if setup else None,
        "videos": counts.get("indexed", 0) + counts.get("partial", 0),
        "locations": counts["location"],
        "states": {
            state: counts.get(state, 0) for state in ("indexed", "partial", "indexing", "failed", "quarantined")
        },
        "clips": counts["clip"],
        "segments": counts["segment"],
        "clips_with": {m: by_modality.get(m, 0) for m in MODALITIES},
        "video_seconds": round(sum(v.end_s - v.start_s for v in videos if v.state in ("indexed", "partial")), 3),
        "generation": generation.id if generation else None,
        "clips_in_generation": generation.clips if generation else 0,
        "problems": failed,
        "last_run": run,
    }
    if json:
        print_json(document)
        return
    print(f"library     {plain(document['library'])}")
    print(
        f"preset      {f'{setup.preset}, sampling {setup.sampling}' if setup else 'none yet; the first ingest takes one'}"
    )
    length = clock(document["video_seconds"])
    print(f"videos      {document['videos']}, {length} long in all; {counted(document['locations'], 'file')} known")
    with_words = ", ".join(f"{n} with {m}" for m, n in document["clips_with"].items())
    print(f"clips       {document['clips']}: {with_words}")
    print(f"transcript  {counted(document['segments'], 'segment')}")
    held = counted(document["clips_in_generation"], "clip")
    print(f"index       {f'generation {generation.id}, {held}' if generation else 'none yet; searches scan the clips'}")
    if counts.get("indexing"):
        print(f"unfinished  {counted(counts['indexing'], 'video')}; the next `vfindex ingest` goes on")
    for row in failed:
        print(plain(f"{row['state']:11} {row['path']}: {row.get('reason', '')}; {row.get('next', '')}"))
