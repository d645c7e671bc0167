"""Every file of the collection of odd files that decodes plays in the page, as docs/playback.md says.

Two to three minutes on two busy cores; a third of it is the second that each plays for.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from library_maker import axis, clip, install, video
from media import media_folder
from serving import Site, serving

from vfindex.indexer.playback.player import MediaPlayer
from vfindex.indexer.stills import FrameDecoder
from vfindex.search.service import SearchService
from vfindex.storage.records import Location, UnitPlan, UnitResult
from vfindex.storage.writer import Writer, writing

# Between a frame of the page and of the file, 16 x 16, of 255: HDR is shown in other colours, all else differs by 20.
MAX_DIFFERENCE = 40.0
LAST_FRAME_S = 0.04
FLAT_COLOURS = 8  # what is one colour has a few neighbours of it where it is encoded
TRANSPARENT = "transparent.webm"  # FFmpeg leaves out what a browser decodes: how transparent each pixel is


def _rows() -> list[dict[str, str]]:
    table = Path(os.environ.get("VFINDEX_TEST_MEDIA", "missing")) / "edge" / "edge.csv"
    if not table.is_file():
        return []
    with table.open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["expected_class"] == "decode"]


@pytest.fixture(scope="module")
def edge_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return a server of the collection. The fingerprint of a video is `e` and its number."""
    library = tmp_path_factory.mktemp("edge") / "library"
    with writing(library) as writer:
        install(writer)
        for number, row in enumerate(_rows()):
            _add(writer, number, row)
        writer.publish()
    with (
        MediaPlayer() as player,
        FrameDecoder() as frames,
        SearchService(library, player=player, frames=frames) as service,
        serving(service) as running,
    ):
        yield running


def _add(writer: Writer, number: int, row: dict[str, str]) -> None:
    first_s, last_s = float(row["measured_first_pts"]), float(row["measured_last_pts"])
    end_s = last_s + LAST_FRAME_S
    facts = {"start_s": first_s, "last_s": last_s, "end_s": end_s}
    id_ = writer.catalog.begin_video(replace(video(f"e{number}"), **facts), [UnitPlan(0)], recognised=True)
    [(unit_id, _)] = writer.catalog.pending_units(id_)
    clips = (clip(first_s, end_s, visual=axis(1)),)
    writer.commit_unit(id_, f"e{number}", unit_id, UnitResult(clips, (), {"visual": "2 frames"}))
    path = media_folder("edge") / row["file"]
    writer.catalog.finish_video(id_, Location(bytes(path), path.stat().st_size, 1, 1), [])


# Plays for a second, or to its end.
PLAYED = """([start, end]) => {
  const { player } = document.querySelector(".watch"), video = document.querySelector("video");
  return player && !video.hidden && video.readyState > 1 && player.time >= Math.min(start + 1, end - 0.1);
}"""
# Seeks, and compares what is shown then with that frame of the file: [mean difference, colours shown, colours there].
COMPARED = """async (time) => {
  const page = document.querySelector(".watch"), video = document.querySelector("video"), size = 16;
  video.pause();
  const sought = new Promise((resolve) => video.addEventListener("seeked", resolve, { once: true }));
  // On a busy machine the frame comes after the event; where it is the same frame, none may come.
  const presented = new Promise((resolve) => video.requestVideoFrameCallback(resolve));
  page.player.seek(time);
  await sought;
  await Promise.race([presented, new Promise((resolve) => setTimeout(resolve, 1000))]);
  const pixels = (source) => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(source, 0, 0, size, size);
    return [...context.getImageData(0, 0, size, size).data];
  };
  const image = new Image();
  image.src = `${page.dataset.api}/frame?t=${page.player.time}&size=640`;
  await image.decode();
  const [shown, stored] = [pixels(video), pixels(image)];
  const places = Array.from({ length: size ** 2 }, (_, n) => 4 * n);
  const colours = (all) => new Set(places.map((at) => all.slice(at, at + 4).join())).size;
  const difference = shown.reduce((sum, value, n) => sum + Math.abs(value - stored[n]), 0) / shown.length;
  return [difference, colours(shown), colours(stored)];
}"""


@pytest.mark.parametrize(("number", "row"), list(enumerate(_rows())), ids=[row["file"] for row in _rows()])
def test_an_odd_file_plays(number: int, row: dict[str, str], edge_site: Site, open_page: Callable[..., Any]) -> None:
    first_s, end_s = float(row["measured_first_pts"]), float(row["measured_last_pts"]) + LAST_FRAME_S
    page = open_page(f"http://127.0.0.1:{edge_site.port}/videos/e{number}")
    page.wait_for_function(PLAYED, arg=[first_s, end_s])
    rung = page.evaluate("document.querySelector('.watch').player.rung")
    assert rung == edge_site.get(f"/videos/e{number}/playback").document["rung"], "the first rung plays"
    assert rung in ("file", "remux", "transcode")
    difference, shown, stored = page.evaluate(COMPARED, (first_s + end_s) / 2)
    assert shown > 1 or stored < FLAT_COLOURS, "the frame is not blank"
    assert difference < MAX_DIFFERENCE or row["file"] == TRANSPARENT
