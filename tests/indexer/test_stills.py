"""Frames of files through a service: the frame that is shown at a time, as an image of the size asked for."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_file, install
from media import Shot, make_video
from PIL import Image

from vfindex.indexer.stills import FrameDecoder
from vfindex.search.service import SearchService
from vfindex.storage.errors import LibraryError, QueryError, UsageError, VideoError
from vfindex.storage.records import Location
from vfindex.storage.writer import writing


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a film of two shots, one whose frames stay for seconds, and a file that is no film."""
    folder = tmp_path_factory.mktemp("films")
    make_video(folder / "shots.mp4", shots=[Shot("red", 2.0), Shot("blue", 2.0)], width=320, height=192)
    make_video(
        folder / "slides.mkv", shots=[Shot("red", 0.04), Shot("blue", 0.04), Shot("red", 0.04)], times_s=(0, 5, 20)
    )
    (folder / "broken.mp4").write_bytes(b"no film" * 1000)
    return folder


@pytest.fixture
def folder(tmp_path: Path, films: Path) -> Path:
    """Return a library of these files, and of one that is not there."""
    with writing(tmp_path) as writer:
        install(writer)
        for path in (*sorted(films.iterdir()), films / "gone.mp4"):
            add_file(writer, path)
        writer.publish()
    return tmp_path


def colour(image: bytes) -> str:
    with Image.open(io.BytesIO(image), formats=("WEBP",)) as picture:
        red, _, blue = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))  # type: ignore[misc]
    return "red" if red > blue else "blue"


def test_a_frame_is_the_one_shown_at_its_time(folder: Path) -> None:
    with FrameDecoder() as decoder, SearchService(folder, frames=decoder) as service:
        stills = service.frames("shots.mp4", [0.0, 1.99, 2.0, 2.05, 99.0, -1.0])
        assert [round(still.time_s, 2) for still in stills] == [0.0, 1.96, 2.0, 2.04, 3.96, 0.0]
        assert [colour(still.image) for still in stills] == ["red", "red", "blue", "blue", "blue", "red"]
        slides = service.frames("slides.mkv", [0.0, 4.9, 5.1, 9.9])
        assert [(round(still.time_s, 2), colour(still.image)) for still in slides] == [
            (0.0, "red"), (0.0, "red"), (5.0, "blue"), (5.0, "blue"),
        ]  # fmt: skip


def test_no_frame_is_of_another_video(folder: Path, films: Path, tmp_path: Path) -> None:
    """The file of a video may be replaced by another before the next run; a copy that is still its own is taken."""
    moved = tmp_path / "slides.mkv"
    moved.write_bytes((films / "slides.mkv").read_bytes())
    with writing(folder) as writer:
        found = writer.catalog.find("slides.mkv")
        assert found is not None
        writer.catalog.place(found[0], Location(bytes(moved), moved.stat().st_size, 1, 1))
        writer.catalog.remove(bytes(films / "slides.mkv"))
    with FrameDecoder() as decoder, SearchService(folder, frames=decoder) as service:
        assert service.frames("slides.mkv", [0.0])[0].fingerprint == "slides.mkv"
        moved.write_bytes((films / "shots.mp4").read_bytes())
        with pytest.raises(LibraryError, match=r"slides\.mkv has changed since it was indexed.*vfindex reindex"):
            service.frames("slides.mkv", [0.0])
        with writing(folder) as writer:
            copy = films / "slides.mkv"
            writer.catalog.place(found[0], Location(bytes(copy), copy.stat().st_size, 1, 1))
        assert service.frames("slides.mkv", [0.0])[0].video == bytes(copy)


def test_an_image_has_the_size_asked_for_and_its_document(folder: Path) -> None:
    with FrameDecoder() as decoder, SearchService(folder, frames=decoder) as service:
        [large], [small] = service.frames("shots.mp4", [0]), service.frames("shots.mp4", [0], size_px=100)
    assert (large.width_px, large.height_px) == (320, 192), "no frame is made larger than it is"
    assert (small.width_px, small.height_px) == (100, 60)
    assert Image.open(io.BytesIO(small.image)).size == (100, 60)
    document = small.to_dict()
    assert base64.b64decode(document["image"]) == small.image
    assert (document["fingerprint"], document["time_s"]) == ("shots.mp4", 0.0)


def test_threads_share_one_decoder(folder: Path) -> None:
    with FrameDecoder() as decoder, SearchService(folder, frames=decoder) as service, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda time_s: service.frames("shots.mp4", [time_s])[0], [0.0, 1.0, 2.0, 3.0]))
    assert [colour(still.image) for still in found] == ["red", "red", "blue", "blue"]


@pytest.mark.parametrize(
    ("name", "times_s", "options", "kind", "sentence"),
    [
        ("gone.mp4", [0.0], {}, LibraryError, "gone.mp4 is not there, so it cannot be shown"),
        ("nothing.mp4", [0.0], {}, LibraryError, "nothing.mp4 is not in this library"),
        ("broken.mp4", [0.0], {}, VideoError, "broken.mp4"),
        ("shots.mp4", 3.0, {}, QueryError, "times_s must be a list of at most 100 times, not 3.0"),
        ("shots.mp4", "12", {}, QueryError, "times_s must be a list of at most 100 times, not '12'"),
        ("shots.mp4", [0.0] * 101, {}, QueryError, "times_s has 101 times; 100 are the most of one call"),
        ("shots.mp4", [float("nan")], {}, QueryError, "a time must be a number of seconds, not nan"),
        ("shots.mp4", ["1"], {}, QueryError, "a time must be a number of seconds, not '1'"),
        ("shots.mp4", [0.0], {"size_px": 4000}, QueryError, "size_px must be a whole number of 16 to 1280, not 4000"),
    ],
)
def test_what_has_no_frames_is_a_sentence(
    folder: Path, name: str, times_s: Any, options: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    with FrameDecoder() as decoder, SearchService(folder, frames=decoder) as service, pytest.raises(kind) as refused:
        service.frames(name, times_s, **options)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_service_without_a_decoder_says_how_to_get_one(folder: Path) -> None:
    with SearchService(folder) as service, pytest.raises(UsageError, match=r"frames=FrameDecoder\(\)"):
        service.frames("shots.mp4", [0.0])


def reddish(frames: list[Any]) -> list[bool]:
    return [bool(frame[..., 0].mean() > frame[..., 2].mean()) for frame in frames]


def test_a_clip_of_a_file_is_its_frames_evenly_spread(films: Path) -> None:
    with FrameDecoder() as decoder:
        path = bytes(films / "shots.mp4")
        assert reddish(decoder.clip_frames(path, None, None, 64)) == [True] * 8 + [False] * 8
        assert reddish(decoder.clip_frames(path, 2.5, 3.5, 64)) == [False] * 16
        few = decoder.clip_frames(path, 1.0, 1.1, 64)
        assert 1 <= len(few) <= 3 and {min(frame.shape[:2]) for frame in few} == {64}
        slides = decoder.clip_frames(bytes(films / "slides.mkv"), 7.0, 9.0, 64)
        assert reddish(slides) == [False], "the frame shown then, if none begins within the clip"


@pytest.mark.parametrize(
    ("name", "span", "kind", "said"),
    [
        ("shots.mp4", (4.5, 9.0), UsageError, "nothing of .*shots.mp4 at these times: it runs from 0 s to 4 s"),
        ("broken.mp4", (None, None), VideoError, "broken.mp4"),
    ],
)
def test_a_clip_must_be_there(films: Path, name: str, span: Any, kind: type[Exception], said: str) -> None:
    with FrameDecoder() as decoder, pytest.raises(kind, match=said):
        decoder.clip_frames(bytes(films / name), *span, 64)


def test_a_clip_is_at_most_a_minute(tmp_path: Path) -> None:
    make_video(tmp_path / "long.mkv", shots=[Shot("red", 0.04), Shot("blue", 0.04)], times_s=(0, 70))
    with FrameDecoder() as decoder, pytest.raises(UsageError, match=r"at most 60 s, this one 70; .*long\.mkv@0-10"):
        decoder.clip_frames(bytes(tmp_path / "long.mkv"), None, None, 64)


def test_a_file_says_when_players_begin_it(films: Path) -> None:
    with FrameDecoder() as decoder:
        facts = decoder.read_facts(bytes(films / "shots.mp4"))
    assert (facts.clock_s, facts.fps, facts.start_timecode) == (0.0, "25/1", None)
