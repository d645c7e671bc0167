"""The texts of a video on its page: who speaks, and what stands on the picture, where and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import SETUP, axis, clip, prior, video
from media import Shot, make_video
from serving import Site, serving

from vfindex.indexer.playback.player import MediaPlayer
from vfindex.search.service import SearchService
from vfindex.storage.records import Location, QueryModel, Segment, UnitPlan, UnitResult
from vfindex.storage.writer import writing

SEGMENTS = (
    Segment(1, 3, "hello there", "sidecar", "en", speakers=("Ann <b>Lee",)),
    Segment(2, 4, "NO EXIT", "frames", "en", 0.9, track="screen", box=(0.5, 0.5, 0.75, 0.75)),
    Segment(2, 4, "LEFT", "frames", "en", 0.9, track="screen", box=(0.0, 0.5, 0.25, 0.75)),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return a server of a library of one video of 10 s, which reads text on the picture."""
    folder = tmp_path_factory.mktemp("texts")
    path = make_video(folder / "film.mp4", shots=[Shot("red", 5.0), Shot("blue", 5.0)], codec="libx264")
    setup = replace(
        SETUP, models={**SETUP.models, "screen": "by hand"}, query={**SETUP.query, "screen": QueryModel("x")}
    )
    with writing(folder / "library") as writer:
        writer.install(setup, {m: prior() for m in ("visual", "speech", "screen", "text")}, {})
        id_ = writer.catalog.begin_video(video("film"), [UnitPlan(0)], recognised=True)
        [(unit_id, _)] = writer.catalog.pending_units(id_)
        made = clip(0.0, 10.0, visual=axis(1))
        made = replace(made, embeddings={**made.embeddings, "screen": axis(2)})
        writer.commit_unit(id_, "film", unit_id, UnitResult((made,), SEGMENTS))
        writer.catalog.finish_video(id_, Location(bytes(path), path.stat().st_size, 1, 1), [])
        writer.publish()
    with pytest.MonkeyPatch.context() as patch, MediaPlayer() as player:
        fake_query_vectors(patch, axis_of_digit)
        with SearchService(folder / "library", player=player) as service, serving(service) as running:
            yield running


def test_what_was_found_on_the_picture_is_framed_while_it_is_shown(open_page: Callable[..., Any]) -> None:
    page = open_page("/videos/film?q=written:exit+1&t=2.5")
    page.wait_for_selector(".boxes rect:not([hidden])", state="visible")  # once the video has its size
    assert page.locator(".boxes rect").count() == 1, "what was not asked for has no frame"
    assert "middle, x 50-75 %, y 50-75 %" in page.locator(".why").inner_text()
    frame, picture = (page.locator(each).bounding_box() for each in (".boxes rect", "video"))
    width = min(picture["width"], picture["height"] * 4 / 3)  # the video has 320 x 240 in the library
    assert abs(frame["width"] - width / 4) < 8
    assert "NO EXIT" in page.locator("details[open] .lines").inner_text()
    page.evaluate("document.querySelector('.watch').player.seek(6)")
    page.wait_for_selector(".boxes rect[hidden]", state="attached")


def test_a_line_names_who_speaks_as_text(open_page: Callable[..., Any]) -> None:
    page = open_page("/videos/film?t=1.5")
    line = page.locator("#transcript a")
    assert "Ann <b>Lee: hello there" in line.inner_text()
    page.wait_for_selector("#transcript [aria-current]")
    page.click("details summary:has-text('Text on the picture')")
    page.locator(".lines a:has-text('LEFT')").click()
    page.wait_for_selector(".lines a[aria-current]:has-text('LEFT')")
