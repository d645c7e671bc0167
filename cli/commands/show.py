"""vfindex show"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibrariesOption, library_folders, refuse_empty
from vfindex.cli.output import box_words, clock, plain, print_json
from vfindex.storage.errors import counted

if TYPE_CHECKING:
    from vfindex.search.results import VideoInfo

NAME = "show"
EXAMPLE = "vfindex show ~/Videos/beach.mp4"
_CARE = {"usual": "as usual", "safe": "safely"}


def command(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path, file name or fingerprint of an indexed video.")],
    library: LibrariesOption = None,
    json: JsonOption = False,
) -> None:
    """Show the clips, transcript and coverage of a video."""
    from vfindex.search.service import SearchService

    refuse_empty([video])
    found = SearchService(library_folders(library)).video(video)
    if json:
        print_json(found.to_dict())
    else:
        _print(found)


def _summary(video: VideoInfo) -> str:
    if not video.codec:  # the file failed before it was probed
        return video.state
    shape = f"{video.width_px}x{video.height_px}, {video.codec} in {video.container}"
    frames = "" if video.frames is None else f", {counted(video.frames, 'frame')}"
    coarse = ", preview only" if video.coarse else ""
    return f"{video.state}{coarse}: {clock(video.duration_s)}, {shape}{frames}"


def _print(video: VideoInfo) -> None:
    for place in video.locations:
        print(plain(os.fsdecode(place)))
    print(plain(_summary(video)))
    if video.title:
        print(plain(f"title: {video.title}"))
    if video.problem:
        print(plain(f"problem: {video.problem['reason']}; {video.problem['next']}"))
    for attempt in video.attempts:
        what = "the file" if attempt.unit is None else f"unit {attempt.unit}"
        print(plain(f"tried: {what}, {_CARE[attempt.care]}, {attempt.at}: {attempt.reason}"))
    for unit in video.coverage:
        for modality, words in unit.items():
            print(plain(f"{modality}: {words}"))
    print(f"\n{counted(len(video.clips), 'clip')}")
    for clip in video.clips:
        span = f"{clock(clip.start_s, tenths=True):>9} - {clock(clip.end_s, tenths=True):<9}"
        print(f"  {span} {counted(clip.frames, 'frame'):>11}  {', '.join(clip.modalities)}")
    if video.transcript:
        print(f"\n{counted(len(video.transcript), 'segment')} of transcript")
    for segment in video.transcript:
        sure = "" if segment.confidence is None else f" {segment.confidence:.2f}"
        where = f"{clock(segment.start_s, tenths=True):>9} [{segment.source}{sure}]"
        on_picture = f"  ({box_words(segment.box)})" if segment.box else ""
        print(plain(f"  {where} {segment.text}{on_picture}"))
