"""A browser, and a served library of 30 videos that it can open: 0 plays as a file, 1 is copied, 2 is encoded again.

The browser is that of VFINDEX_BROWSER, else `chromium` of PATH. Without one, or without playwright, these tests skip;
with VFINDEX_REQUIRE_BROWSER=1 they fail.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import axis, clip, install, video
from media import COLOURS, Shot, make_video
from PIL import Image
from serving import Site, serving

from vfindex.indexer.playback.player import MediaPlayer
from vfindex.search.engine import SearchEngine
from vfindex.search.http.settings import Tools
from vfindex.search.query.image import Pictures
from vfindex.search.service import SearchService
from vfindex.storage.encoders.pixels import Pixels
from vfindex.storage.records import Chapter, FloatArray, Location, Segment, UnitPlan, UnitResult
from vfindex.storage.writer import Writer, writing

VIDEOS = 30
LENGTH_S = 10.0
WAIT_MS = 60_000
# Of each clip of 5 s, by its number in the video.
WORDS = ("the harbour at dawn", 'a <b>"ferry"</b> leaves the harbours')


def _absent(reason: str) -> None:
    if os.environ.get("VFINDEX_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


# Browser and server are of a file each: playwright leaves an event loop running in its thread, and the server has query
# vectors of its own, which other tests of the process would meet.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("playwright drives the browser: pip install playwright")
    path = os.environ.get("VFINDEX_BROWSER") or shutil.which("chromium")
    if path is None:
        _absent("no browser: install chromium, or name one in VFINDEX_BROWSER")
    with sync_playwright() as driver:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        running = driver.chromium.launch(executable_path=path, args=options)
        yield running
        running.close()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    films = _films(folder)
    with writing(folder / "library") as writer:
        install(writer)
        for number, path in enumerate(films):
            _add(writer, path, number)
        writer.publish()
    return folder / "library"


@pytest.fixture(scope="module")
def site(library: Path) -> Iterator[Site]:
    """Return a server of the library. A query finds the videos whose number, modulo 8, it has for a digit."""
    with pytest.MonkeyPatch.context() as patch, MediaPlayer() as player:
        fake_query_vectors(patch, axis_of_digit)
        patch.setattr(Pictures, "_encoder", lambda self: RedOfPicture())
        tools = Tools(Reader())
        with SearchService(library, player=player) as service, serving(service, tools=tools) as running:
            yield running


class RedOfPicture:
    """An image encoder whose vector is the axis that the red of a picture names, in tens."""

    size_px = 8

    def encode_images(self, frames: list[Pixels]) -> FloatArray:
        return np.stack([axis(round(frame[0, 0, 0] / 10)) for frame in frames])


class Reader:
    """Decodes pictures in this process."""

    def prepare(self, engine: SearchEngine) -> None:
        """The encoder is there."""

    def read_picture(self, data: bytes, name: str, size_px: int) -> Pixels:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB").resize((size_px, size_px)))


def _films(folder: Path) -> list[Path]:
    shots = [Shot(colour, 1.0, to="white") for colour in list(COLOURS)[:5] * 2]
    kinds = [("h264.mp4", "libx264", 440.0), ("copied.mkv", "libx264", None), ("encoded.avi", "mpeg4", None)]
    made = [make_video(folder / name, shots=shots, codec=codec, tone_hz=tone) for name, codec, tone in kinds]
    return made + [Path(shutil.copy(made[0], folder / f"film {number}.mp4")) for number in range(len(made), VIDEOS)]


def _add(writer: Writer, path: Path, number: int) -> None:
    facts = {"chapters": (Chapter("Dawn", 0.0, 5.0), Chapter("Ferry", 5.0, 10.0)), "fps": "25/1"}
    id_ = writer.catalog.begin_video(replace(video(f"v{number}"), **facts), [UnitPlan(0)], recognised=True)
    [(unit_id, _)] = writer.catalog.pending_units(id_)
    vectors = {"visual": axis(number % 8), "speech": axis(number % 8)}
    clips = [replace(clip(5.0 * n, 5.0 * n + 5, **vectors), thumbnail=_picture(number + n)) for n in range(2)]
    segments = [Segment(5.0 * n + 1, 5.0 * n + 4, text, "asr", "en") for n, text in enumerate(WORDS)]
    writer.commit_unit(id_, f"v{number}", unit_id, UnitResult(tuple(clips), tuple(segments)))
    writer.catalog.finish_video(id_, Location(bytes(path), path.stat().st_size, 1, 1), [])


def _picture(number: int) -> bytes:
    found = io.BytesIO()
    Image.new("RGB", (160, 90), tuple(COLOURS.values())[number % len(COLOURS)]).save(found, "WEBP")
    return found.getvalue()


@pytest.fixture
def open_page(browser: Any, site: Site) -> Iterator[Callable[..., Any]]:
    """Return what opens a path in a fresh profile. options: of the browser context.

    Fails for an error in a script, and for anything that the content security policy refuses.
    """
    problems: list[str] = []
    contexts = []

    def note(message: Any) -> None:
        if "Content Security Policy" in message.text or "TrustedType" in message.text:
            problems.append(message.text)

    def opened(path: str, **options: Any) -> Any:
        context = browser.new_context(base_url=f"http://127.0.0.1:{site.port}", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems
