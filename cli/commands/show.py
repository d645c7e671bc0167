"""vfindex show"""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vfindex.cli.options import JsonOption, LibraryOption, known_as, library_folder
from vfindex.cli.output import clock, path_text, plain, print_json
from vfindex.storage.errors import LibraryError, counted

if TYPE_CHECKING:
    from vfindex.storage.db.reader import Snapshot
    from vfindex.storage.db.videos import StoredVideo
    from vfindex.storage.library import Library

NAME = "show"
EXAMPLE = "vfindex show ~/Videos/beach.mp4"
_CARE = {"usual": "as usual", "safe": "safely"}


def command(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path of an indexed video.")],
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Show what is known of a video.

    Its clips, its transcript with the sources, and what each modality covers.
    """
    from vfindex.storage.library import Library, again_if_changed

    @again_if_changed
    def read() -> dict[str, Any]:
        opened = Library.open(library_folder(library))
        with opened.snapshot() as snapshot:
            return _document(opened, snapshot, _find(snapshot, video))

    document = read()
    if json:
        print_json(document)
    else:
        _print(document)


def _find(snapshot: Snapshot, path: str) -> StoredVideo:
    known = snapshot.path_of(known_as(path))
    found = None if known is None else snapshot.video_at(known)
    if found is not None:
        return found
    name = plain(path)
    if os.path.isdir(path):
        raise LibraryError(f"{name} is a folder; name one of its videos")
    raise LibraryError(f"{name} is not in this library; index it with: vfindex ingest {shlex.quote(name)}")


def _document(library: Library, snapshot: Snapshot, video: StoredVideo) -> dict[str, Any]:
    from vfindex.storage.db.runs import attempts_of
    from vfindex.storage.db.units import coarse_videos

    clips = snapshot.clips_of(video.id)
    vectors = snapshot.vectors([clip.id for clip in clips])
    return {
        "video": path_text(video.locations[0].path),
        "locations": [path_text(place.path) for place in video.locations],
        "fingerprint": video.fingerprint,
        "state": video.state,
        "coarse": video.fingerprint in coarse_videos(snapshot),
        "problem": video.problem,
        "attempts": [asdict(attempt) for attempt in attempts_of(snapshot, video.id)],
        "title": video.title,
        "tags": dict(video.tags),
        "container": video.container,
        "codec": video.codec,
        "width_px": video.width_px,
        "height_px": video.height_px,
        "rotation_deg": video.rotation_deg,
        "start_s": video.start_s,
        "first_pts_s": video.start_s,
        "last_pts_s": video.last_s,
        "end_s": video.end_s,
        "duration_s": video.end_s - video.start_s,
        "frames": video.frames,
        "has_audio": video.has_audio,
        "coverage": [dict(unit) for unit in snapshot.coverage(video.id)],
        "clips": [
            {
                "start_s": clip.start_s,
                "end_s": clip.end_s,
                "modalities": sorted(vectors[clip.id].embeddings),
                "frames": len(vectors[clip.id].frame_times_s),
                "thumbnail": _text(library.thumbnail(clip.thumbnail)),
            }
            for clip in clips
        ],
        "transcript": [
            {
                "start_s": segment.start_s,
                "end_s": segment.end_s,
                "text": segment.text,
                "source": segment.source,
                "language": segment.language,
                "confidence": segment.confidence,
            }
            for segment in snapshot.segments(video.id)
        ],
    }


def _text(path: object) -> str | None:
    return None if path is None else str(path)


def _summary(document: dict[str, Any]) -> str:
    if not document["codec"]:  # a file that failed: nothing of it was measured
        return str(document["state"])
    shape = f"{document['width_px']}x{document['height_px']}, {document['codec']} in {document['container']}"
    frames = "" if document["frames"] is None else f", {counted(document['frames'], 'frame')}"
    coarse = ", looked at in passing" if document["coarse"] else ""
    return f"{document['state']}{coarse}: {clock(document['duration_s'])}, {shape}{frames}"


def _print(document: dict[str, Any]) -> None:
    for place in document["locations"]:
        print(plain(place))
    print(plain(_summary(document)))
    if document["title"]:
        print(plain(f"title: {document['title']}"))
    if document["problem"]:
        print(plain(f"problem: {document['problem']['reason']}; {document['problem']['next']}"))
    for tried in document["attempts"]:
        what = "the file" if tried["unit"] is None else f"unit {tried['unit']}"
        print(plain(f"tried: {what}, {_CARE[tried['care']]}, {tried['at']}: {tried['reason']}"))
    for unit in document["coverage"]:
        for modality, words in unit.items():
            print(plain(f"{modality}: {words}"))
    print(f"\n{counted(len(document['clips']), 'clip')}")
    for clip in document["clips"]:
        span = f"{clock(clip['start_s'], tenths=True):>9} - {clock(clip['end_s'], tenths=True):<9}"
        print(f"  {span} {counted(clip['frames'], 'frame'):>11}  {', '.join(clip['modalities'])}")
    if document["transcript"]:
        print(f"\n{counted(len(document['transcript']), 'segment')} of transcript")
    for segment in document["transcript"]:
        sure = "" if segment["confidence"] is None else f" {segment['confidence']:.2f}"
        where = f"{clock(segment['start_s'], tenths=True):>9} [{segment['source']}{sure}]"
        print(plain(f"  {where} {segment['text']}"))
