"""Files whose picture or sound begins late: the page shows the frame of the moment, whatever the browser calls 0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import axis, clip, install
from media import Shot, make_video
from serving import Site, serving

from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.playback.player import MediaPlayer
from vfindex.search.service import SearchService
from vfindex.storage.records import Location, UnitPlan, UnitResult, Video
from vfindex.storage.writer import Writer, writing

PLAYER = "document.querySelector('.watch').player"
# Each lasts 2 s, from the first frame on.
COLOURS = ("red", "blue", "green")
H264 = {"codec": "libx264", "b_frames": 2}
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "late.webm": ("file", {"codec": "libvpx", "start_s": 3.0}),
    "fragments.mp4": (
        "file",
        {"start_s": 3.0, "container_options": {"movflags": "frag_keyframe+empty_moov", "use_editlist": "0"}, **H264},
    ),
    "edit_list.mp4": ("file", {"start_s": 3.0, "tone_hz": 440, **H264}),
    "late.mkv": ("remux", {"start_s": 3.0, "tone_hz": 440, **H264}),
    "late.ts": ("transcode", {"codec": "mpeg2video", "start_s": 3.0}),
    "late_audio.mp4": ("file", {"tone_hz": 440, "tone_gap_s": (0.0, 2.0), **H264}),
}


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, dict[str, float]]]:
    """Return a server of the files, and when each begins."""
    folder = tmp_path_factory.mktemp("late")
    begins_s: dict[str, float] = {}
    with writing(folder / "library") as writer, Decoder() as decoder:
        install(writer)
        for name, (_, options) in FILES.items():
            path = make_video(folder / name, shots=[Shot(colour, 2.0) for colour in COLOURS], **options)
            begins_s[name] = add(writer, decoder, path)
        writer.publish()
    with pytest.MonkeyPatch.context() as patch, MediaPlayer() as player:
        fake_query_vectors(patch, axis_of_digit)
        with SearchService(folder / "library", player=player) as service, serving(service) as running:
            yield running, begins_s


def add(writer: Writer, decoder: Decoder, path: Path) -> float:
    found = decoder.probe(bytes(path))
    video = Video(
        *(key_of(path.name), path.stat().st_size, found.container, found.codec, found.width_px, found.height_px),
        *(found.rotation_deg, found.start_s, found.end_s - 0.04, found.end_s, found.frames, bool(found.audio)),
        fps=found.fps,
    )
    id_ = writer.catalog.begin_video(video, [UnitPlan(0)], recognised=True)
    [(unit, _)] = writer.catalog.pending_units(id_)
    writer.commit_unit(
        id_, key_of(path.name), unit, UnitResult((clip(found.start_s, found.end_s, visual=axis(1)),), ())
    )
    writer.catalog.finish_video(id_, Location(bytes(path), path.stat().st_size, 1, 1), [])
    return found.start_s


def key_of(name: str) -> str:
    """Return the fingerprint of a file."""
    return name.replace(".", "-").replace("_", "-")


COLOUR_SHOWN = """() => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [16, 16];
  const context = canvas.getContext("2d");
  context.drawImage(document.querySelector("video"), 0, 0, 16, 16);
  const { data } = context.getImageData(8, 12, 1, 1);
  return ["red", "green", "blue"][data.slice(0, 3).indexOf(Math.max(...data.slice(0, 3)))];
}"""


@pytest.mark.parametrize("name", FILES)
def test_the_frame_of_the_moment_is_shown(browser: Any, late: tuple[Site, dict[str, float]], name: str) -> None:
    site, begins_s = late
    context = browser.new_context(base_url=f"http://127.0.0.1:{site.port}")
    try:
        page = context.new_page()
        page.set_default_timeout(60_000)
        for number, colour in ((1, "blue"), (2, "green"), (0, "red")):
            at_s = begins_s[name] + 2.0 * number + 0.5
            page.goto(f"/videos/{key_of(name)}?t={at_s:.3f}&end={at_s + 1.0:.3f}")
            page.wait_for_function(
                f"() => {PLAYER} && document.querySelector('video').paused && {PLAYER}.time > {at_s} + 0.8"
            )
            assert page.evaluate(f"{PLAYER}.time") == pytest.approx(at_s + 1.0, abs=0.3), "it ends with the moment"
            assert page.evaluate(COLOUR_SHOWN) == colour
        assert page.evaluate(f"{PLAYER}.rung") == FILES[name][0]
    finally:
        context.close()
