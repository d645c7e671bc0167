"""vfindex show"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibrariesOption, library_folders, refuse_empty
from vfindex.cli.output import clock, plain, print_json
from vfindex.storage.errors import counted
from vfindex.storage.modalities import timed_text_modalities
from vfindex.storage.records import box_words

if TYPE_CHECKING:
    from vfindex.search.results import VideoInfo
    from vfindex.storage.records import Segment

NAME = "show"
EXAMPLE = "vfindex show ~/Videos/beach.mp4"
_CARE = {"usual": "as usual", "safe": "safely"}


def command(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path, file name or fingerprint of an indexed video.")],
    track: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Only the text of this track: {', '.join(timed_text_modalities())}."),
    ] = None,
    library: LibrariesOption = None,
    json: JsonOption = False,
) -> None:
    """Show the clips, transcript and coverage of a video."""
    from vfindex.search.service import SearchService

    refuse_empty([video])
    with SearchService(library_folders(library)) as service:
        if track is not None:
            text = service.transcript(video, track=track)
        else:
            info = service.video(video)
    if json:
        print_json((info if track is None else text).to_dict())
    elif track is None:
        _print(info)
    else:
        _print_segments(text.segments)


def _summary(video: VideoInfo) -> str:
    if not video.codec:  # the file failed before it was probed
        return video.state
    shape = f"{video.width_px}x{video.height_px}, {video.codec} in {video.container}"
    frames = "" if video.frames is None else f", {counted(video.frames, 'frame')}"
    coarse = ", preview only" if video.coarse else ""
    heard_s = max((clip.end_s for clip in video.clips), default=video.end_s)
    sound = f", sound to {clock(heard_s)}" if clock(heard_s) > clock(video.end_s) else ""
    return f"{video.state}{coarse}: {clock(video.duration_s)}{sound}, {shape}{frames}"


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
    _print_segments(video.transcript)
    for track in dict.fromkeys(segment.track for segment in video.other_text):
        segments = [segment for segment in video.other_text if segment.track == track]
        print(f"\n{counted(len(segments), 'segment')} of {track}")
        _print_segments(segments)


def _print_segments(segments: Sequence[Segment]) -> None:
    for segment in segments:
        sure = "" if segment.confidence is None else f" {segment.confidence:.2f}"
        corrected = "" if segment.original is None else ", corrected"
        where = f"{clock(segment.start_s, tenths=True):>9} [{segment.source}{sure}{corrected}]"
        on_picture = f"  ({box_words(segment.box)})" if segment.box else ""
        speakers = f"{', '.join(segment.speakers)}: " if segment.speakers else ""
        print(plain(f"  {where} {speakers}{segment.text or '(nothing)'}{on_picture}"))
