"""vfindex show"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vfindex.cli.options import JsonOption, LibraryOption, known_as, library_folder
from vfindex.cli.output import clock, plain, print_json
from vfindex.storage.errors import LibraryError, counted

if TYPE_CHECKING:
    from vfindex.storage.db.reader import Snapshot
    from vfindex.storage.db.videos import StoredVideo

NAME = "show"
EXAMPLE = "vfindex show ~/Videos/beach.mp4"
_CARE = {"usual": "as usual", "safe": "safely"}


def command(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path of an indexed video.")],
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Show the clips, transcript and coverage of a video."""
    from vfindex.search.results import video_to_dict
    from vfindex.storage.library import Library, again_if_changed

    @again_if_changed
    def read() -> dict[str, Any]:
        opened = Library.open(library_folder(library))
        with opened.snapshot() as snapshot:
            return video_to_dict(opened, snapshot, _find(snapshot, video))

    document = read()
    if json:
        print_json(document)
    else:
        _print(document)


def _find(snapshot: Snapshot, path: str) -> StoredVideo:
    stored = snapshot.path_of(known_as(path))
    video = None if stored is None else snapshot.video_at(stored)
    if video is not None:
        return video
    name = plain(path)
    if os.path.isdir(path):
        raise LibraryError(f"{name} is a folder; name one of its videos")
    if os.path.lexists(path):
        raise LibraryError(f"{name} is not in this library; index it with: vfindex ingest {shlex.quote(name)}")
    raise LibraryError(f"{name} is not in this library, and there is no such file; `vfindex list` shows what is")


def _summary(document: dict[str, Any]) -> str:
    if not document["codec"]:  # the file failed before it was probed
        return str(document["state"])
    shape = f"{document['width_px']}x{document['height_px']}, {document['codec']} in {document['container']}"
    frames = "" if document["frames"] is None else f", {counted(document['frames'], 'frame')}"
    coarse = ", preview only" if document["coarse"] else ""
    return f"{document['state']}{coarse}: {clock(document['duration_s'])}, {shape}{frames}"


def _print(document: dict[str, Any]) -> None:
    for place in document["locations"]:
        print(plain(place))
    print(plain(_summary(document)))
    if document["title"]:
        print(plain(f"title: {document['title']}"))
    if document["problem"]:
        print(plain(f"problem: {document['problem']['reason']}; {document['problem']['next']}"))
    for attempt in document["attempts"]:
        what = "the file" if attempt["unit"] is None else f"unit {attempt['unit']}"
        print(plain(f"tried: {what}, {_CARE[attempt['care']]}, {attempt['at']}: {attempt['reason']}"))
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
