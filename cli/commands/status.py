"""vfindex status"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import clock, path_text, plain, print_json
from vfindex.search.calibration.labels import META_KEY, Calibration
from vfindex.storage.errors import IndexUnusable, counted
from vfindex.storage.records import MODALITIES

if TYPE_CHECKING:
    from vfindex.storage.db.reader import Generation, Snapshot
    from vfindex.storage.library import Library

NAME = "status"
EXAMPLE = "vfindex status --json"
_STATES = ("indexed", "partial", "indexing", "failed", "quarantined", "vanished")
_TROUBLED = ("partial", "failed", "quarantined")


def command(library: LibraryOption = None, json: JsonOption = False) -> None:
    """Tell what the library holds, and what could not be indexed."""
    from vfindex.storage.library import Library, again_if_changed

    folder = library_folder(library)

    @again_if_changed
    def read() -> dict[str, Any]:
        opened = Library.open(folder)
        with opened.snapshot() as snapshot:
            return _document(folder, opened, snapshot)

    document = read()
    if json:
        print_json(document)
    else:
        _print(document)


def _document(folder: Path, opened: Library, snapshot: Snapshot) -> dict[str, Any]:
    from vfindex.storage.db.runs import attempt_counts
    from vfindex.storage.db.sources import stored_exclusions
    from vfindex.storage.db.units import coarse_videos
    from vfindex.storage.joint import fusion
    from vfindex.storage.library import setup_from_json

    tries = attempt_counts(snapshot)
    counts, by_modality = snapshot.counts(), snapshot.modality_counts()
    stored, generation, videos = snapshot.get("setup"), snapshot.generation(), snapshot.videos()
    setup = setup_from_json(stored) if stored else None
    form = fusion.Fusion.from_json(snapshot.get(fusion.META_KEY)).form
    fault = _index_fault(opened, generation)
    return {
        "library": str(folder),
        "preset": setup.preset if setup else None,
        "sampling": setup.sampling if setup else None,
        "models": dict(setup.references) if setup else {},
        "videos": counts.get("indexed", 0) + counts.get("partial", 0),
        "coarse": len(coarse_videos(snapshot)),
        "locations": counts["location"],
        "states": {state: counts.get(state, 0) for state in _STATES},
        "clips": counts["clip"],
        "segments": counts["segment"],
        "clips_with": {m: by_modality.get(m, 0) for m in MODALITIES},
        "video_seconds": round(sum(v.end_s - v.start_s for v in videos if v.state in ("indexed", "partial")), 3),
        "confidence": _confidence(snapshot.get(META_KEY)) if form == "concat" else None,
        "fusion": form,
        "generation": generation.id if generation and not fault else None,
        "clips_in_generation": generation.clips if generation and not fault else 0,
        "index_problem": fault,
        "removed": [path_text(path) for path in stored_exclusions(snapshot)],
        "problems": [
            {
                "path": path_text(place.path),
                "state": video.state,
                **(video.problem or {}),
                "attempts": tries.get(video.id, 1),
            }
            for video in videos
            if video.state in _TROUBLED
            for place in video.locations
        ],
        "last_run": snapshot.last_run(),
    }


def _index_fault(opened: Library, generation: Generation | None) -> str | None:
    """Return why searches do without the joint index, None where they use it or none is published yet."""
    try:
        if generation is not None:
            opened.open_index(generation)
    except IndexUnusable as exc:
        return str(exc)
    return None


def _confidence(stored: str | None) -> dict[str, Any] | None:
    """Return modality -> what was measured of its scores, None before it was."""
    calibration = Calibration.from_json(stored)
    if calibration is None:
        return None
    return {
        m: {"labelled": of.earned, "auc": of.auc, "questions": of.known, "reason": of.reason()}
        for m, of in calibration.trust.items()
    }


def _index_line(document: dict[str, Any]) -> str:
    if document["index_problem"]:
        return f"not used: {document['index_problem']}"
    if not document["generation"]:
        return "none yet; searches scan the clips"
    return f"generation {document['generation']}, {counted(document['clips_in_generation'], 'clip')}"


def _print(document: dict[str, Any]) -> None:
    preset, sampling = document["preset"], document["sampling"]
    length, files = clock(document["video_seconds"]), counted(document["locations"], "file")
    print(f"library     {plain(document['library'])}")
    print(f"preset      {f'{preset}, sampling {sampling}' if preset else 'none yet; the first ingest takes one'}")
    if document["models"]:
        print(f"models      {plain(', '.join(document['models'].values()))}")
    print(f"videos      {document['videos']}, {length} long in all; {files} known")
    print(f"clips       {document['clips']}: {', '.join(f'{n} with {m}' for m, n in document['clips_with'].items())}")
    print(f"transcript  {counted(document['segments'], 'segment')}")
    print(f"index       {plain(_index_line(document))}")
    if document["fusion"] != "concat":
        print(f"fusion      {document['fusion']}, whose weights are fixed and whose hits have no confidence")
    for modality, of in (document["confidence"] or {}).items():
        print(f"{'confidence':11} {modality}: {of['reason']}")
    if document["coarse"]:
        print(
            f"coarse      {counted(document['coarse'], 'video')}, looked at in passing; the next run reads them wholly"
        )
    if document["states"]["indexing"]:
        print(f"unfinished  {counted(document['states']['indexing'], 'video')}; the next `vfindex ingest` goes on")
    if document["states"]["vanished"]:
        print(f"vanished    {counted(document['states']['vanished'], 'video')}; `vfindex purge` deletes what is left")
    for path in document["removed"]:
        print(plain(f"{'removed':11} {path}, and skipped; to index it again: vfindex remove --forget-exclusion PATH"))
    for row in document["problems"]:
        tries = f" ({row['attempts']} tries failed)" if row["attempts"] > 1 else ""
        print(plain(f"{row['state']:11} {row['path']}: {row.get('reason', '')}{tries}; {row.get('next', '')}"))
