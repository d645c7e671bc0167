"""Images and clips as queries: decoding, weight relative to words, and hits."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import engine_over, fake_query_vectors, names
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from library_maker import DIM, SETUP, axis, clip, install
from PIL import Image

from vfindex.search.engine import SearchEngine
from vfindex.search.query.image import Pictures, read_picture
from vfindex.search.query.like import Like
from vfindex.search.rank.delta import View
from vfindex.search.rank.query_vectors import QueryVectors, add_images, sample_images
from vfindex.storage.encoders.picture import BACKDROP, MAX_PIXELS
from vfindex.storage.errors import ModelError, QueryError, UsageError
from vfindex.storage.joint.vector import JointSpec, ModalitySpec
from vfindex.storage.library import Library
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.writer import writing

# --- files ----------------------------------------------------------------------------------------------------------


def halves(mode: str = "RGB") -> Image.Image:
    """Return a picture of 40 x 20, red on the left and blue on the right."""
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (20, 0, 40, 20))
    return picture.convert(mode)


def colour(pixels: Any, row: float, column: float) -> str:
    """Return the strongest of red, green and blue at a position, in shares of height and width."""
    height, width = pixels.shape[:2]
    return "rgb"[int(np.argmax(pixels[int(row * height), int(column * width)]))]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif", "a.gif"])
def test_the_short_side_is_the_model_s_input_size(tmp_path: Path, name: str) -> None:
    halves().save(tmp_path / name)
    pixels = read_picture(tmp_path / name, 32)
    assert (pixels.shape, pixels.dtype) == ((32, 64, 3), np.uint8)
    assert (colour(pixels, 0.5, 0.1), colour(pixels, 0.5, 0.9)) == ("r", "b")


def test_a_picture_is_rotated_by_its_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: what is left in the file belongs to the top
    halves().save(tmp_path / "turned.jpg", exif=exif)
    pixels = read_picture(tmp_path / "turned.jpg", 32)
    assert pixels.shape == (64, 32, 3)
    assert (colour(pixels, 0.1, 0.5), colour(pixels, 0.9, 0.5)) == ("r", "b")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_the_backdrop(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (30, 30), (255, 255, 255, 0)).convert(mode)
    picture.save(tmp_path / "a.png", **({"transparency": picture.getpixel((0, 0))} if mode == "P" else {}))
    assert np.all(read_picture(tmp_path / "a.png", 16) == BACKDROP)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "CMYK", "YCbCr"])
def test_every_pixel_format_is_read(tmp_path: Path, mode: str) -> None:
    values = np.zeros((20, 40), np.uint16)
    values[:, 20:] = 40_000
    picture = Image.fromarray(values) if mode == "I;16" else halves(mode)
    path = tmp_path / ("a.png" if mode in ("1", "L", "I;16") else "a.tif")
    picture.save(path)
    pixels = read_picture(path, 32)
    assert pixels.shape == (32, 64, 3)
    if mode == "I;16":
        assert pixels[16, 60].tolist() == [156] * 3 and pixels[16, 4].tolist() == [0] * 3


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), name) for name in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert colour(read_picture(tmp_path / "a.gif", 16), 0.5, 0.5) == "r"


@pytest.mark.parametrize(("size", "shape"), [((1, 1), (16, 16)), ((5000, 2), (16, 48)), ((17, 900), (48, 16))])
def test_strips_are_squeezed_and_dots_grow(tmp_path: Path, size: tuple[int, int], shape: tuple[int, int]) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", 16).shape == (*shape, 3)


def bomb(path: Path, width_px: int, height_px: int) -> None:
    """Write a PNG of a few bytes that claims a size."""
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(b"\0" * 99), b"IEND")
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


def make_odd(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    elif kind == "words":
        path.write_text("a dog")
    elif kind == "postscript":
        halves().save(path, format="EPS")
    elif kind == "cut":
        halves().resize((400, 400)).save(path, format="JPEG")
        path.write_bytes(path.read_bytes()[:700])
    elif kind == "bomb":
        bomb(path, 100_000, MAX_PIXELS // 100_000 + 1)
    elif kind == "great bomb":
        bomb(path, 100_000, 100_000)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("absent", r"cannot be read \(No such file"),
        ("folder", "is no file"),
        ("pipe", "is no file"),
        ("empty", "an empty file"),
        ("words", "is not a picture in a supported format"),
        ("postscript", "is not a picture in a supported format"),
        ("cut", "is damaged"),
        ("bomb", "too large"),
        ("great bomb", "too large"),
    ],
)
def test_a_file_that_is_not_a_picture_raises_one_sentence(tmp_path: Path, kind: str, says: str) -> None:
    path = tmp_path / "odd"
    make_odd(path, kind)
    with pytest.raises(QueryError, match=says) as caught:
        read_picture(path, 16)
    assert "odd" in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.floats(0.1, 1),
)
def test_a_damaged_picture_is_read_or_refused(tmp_path: Path, kind: str, changes: Any, keep: float) -> None:
    path = tmp_path / "a"
    halves().save(path, format=kind)
    data = bytearray(path.read_bytes())
    for where, value in changes:
        data[int(where * (len(data) - 1))] = value
    path.write_bytes(data[: max(1, int(keep * len(data)))])
    try:
        assert min(read_picture(path, 16).shape[:2]) == 16
    except QueryError as exc:
        assert str(path) in str(exc)


# --- questions ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def queries_are_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The query "3" has axis 3 in every modality; so has a picture named 3.png."""

    def see(self: Pictures, path: Path) -> FloatArray:
        return axis(int(path.stem))

    fake_query_vectors(monkeypatch, lambda text: axis(next((int(c) for c in text if c in "1234567"), 0)))
    monkeypatch.setattr(Pictures, "encode", see)


def leaning(first: int, second: int, share: float) -> FloatArray:
    vector = (1 - share) * axis(first) + share * axis(second)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@pytest.mark.parametrize("combine", ["convex", "rrf"])
def test_a_picture_finds_similar_clips(tmp_path: Path, combine: Any) -> None:
    videos = {f"v{i}": [clip(visual=axis(i), speech=axis(7 - i))] for i in range(4)}
    engine = engine_over(tmp_path, videos)
    for i in range(4):
        hits = engine.search(images=[Path(f"{i}.png")], combine=combine)
        assert names(hits)[0] == f"v{i}" and hits[0].score > 2 * max(hits[1].score, 0)
        assert hits[0].modalities["speech"] is None and hits[0].missing["speech"] == "not asked for"
        assert hits[0].confidence is None and hits[0].frame_s == 0.0


def test_a_picture_is_not_centred(tmp_path: Path) -> None:
    engine_over(tmp_path, {"a": [clip(visual=axis(1))]})
    part = ModalitySpec(mean=leaning(0, 1, 0.3), query_mean=leaning(0, 2, 0.3), scale=2.0, weight=1.0)
    with Library.open(tmp_path).snapshot() as snapshot:
        view = View(snapshot, JointSpec({"visual": part}), SETUP, None, 0)
        spreads = sample_images(view, [axis(3)], alone=True).spreads()
        alone = add_images(QueryVectors({}, {"visual": 0.0}), [axis(3)], spreads, view.spec)
        both = add_images(QueryVectors({"visual": axis(4)}, {"visual": 1.0}), [axis(3)], spreads, view.spec)
    asked, seen = alone.vectors["visual"] - part.query_mean, axis(3)
    assert float(asked @ seen) == pytest.approx(float(np.linalg.norm(asked) * np.linalg.norm(seen)))
    assert both.vectors["visual"] - alone.vectors["visual"] == pytest.approx(axis(4) - part.query_mean)
    assert (alone.spread["visual"], both.spread["visual"]) == (1.0, pytest.approx(2**0.5))


def test_words_and_images_are_combined(tmp_path: Path) -> None:
    videos = {"one": [clip(visual=axis(1))], "two": [clip(visual=axis(2))], "both": [clip(visual=leaning(1, 2, 0.5))]}
    engine = engine_over(tmp_path, {**videos, "none": [clip(visual=axis(5))]})
    assert names(engine.search("1", images=[Path("2.png")]))[0] == "both"
    assert names(engine.search("3:d1", images=[Path("2.png")]))[0] == "one", "a word that counts three times"
    assert names(engine.search(images=[Path("1.png"), Path("2.png")]))[0] == "both"
    assert names(engine.search("shown:1 -d2", images=[Path("1.png")]))[:1] == ["one"]


def test_picture_similarities_are_scaled_to_the_spread_of_texts(tmp_path: Path) -> None:
    """The spread is 1, that of texts, however similar pictures are and however many are given."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100, DIM))
    clips = [np.asarray(row / np.linalg.norm(row), np.float32) for row in rows]
    engine = engine_over(
        tmp_path, {"long": [clip(9.0 * i, 9.0 * i + 5, visual=vector) for i, vector in enumerate(clips)]}
    )
    for images in ([Path("1.png")], [Path("1.png"), Path("1.png")]):
        scores = [hit.score for hit in engine.search(images=images, top_k=100, per_video=100)]
        assert 0.6 < np.std(scores) < 1.1
    raw = [float(vector @ axis(1)) for vector in clips]
    assert np.std(raw) < 0.5


def test_filters_and_required_keywords_apply_to_images(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(1))], "b": [clip(visual=axis(2))]})
    assert names(engine.search("in:/videos/b", images=[Path("1.png")])) == ["b"]
    assert engine.search("shorter:1s", images=[Path("1.png")]) == []
    assert engine.search('"never said"', images=[Path("1.png")]) == []


def test_invalid_queries_with_images_are_refused(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(1))], "b": [clip(speech=axis(2))]})
    with pytest.raises(QueryError, match="two") as caught:
        engine.search("1 then 2 within 5s", images=[Path("1.png")])
    assert caught.value.position == 7
    with pytest.raises(QueryError, match="weight is 0"):
        engine.search(images=[Path("1.png")], weights={"visual": 0})
    with pytest.raises(QueryError, match="empty"):
        engine.search("")
    with pytest.raises(QueryError, match="filters and no words"):
        engine.search("in:b")
    with pytest.raises(QueryError, match="has no frames"):
        engine.search(images=[Like(Path("/videos/b"), 1.0)])


PIECES = st.sampled_from(
    [
        " ",
        '"',
        "-",
        "2:",
        "said:",
        "shown:",
        "dog",
        "a cat",
        " then ",
        " near ",
        " within 9s",
        " in:a",
        " longer:1s",
        "(",
    ]
)
ASKED = st.sampled_from(
    [
        *(Path("0.png"), Path("1.png"), Like(Path("/videos/a"), 1.0), Like(Path("/videos/a"), 7.0)),
        *(Like(Path("/videos/b"), 1.0), Like(Path("/videos/b"), 99.0), Like(Path("/videos/none"), 0.0)),
    ]
)


@pytest.fixture(scope="module")
def library_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    engine_over(
        folder, {"a": [clip(visual=axis(0)), clip(5, 9, visual=axis(1), speech=axis(2))], "b": [clip(text=axis(3))]}
    )
    return folder


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(st.text(max_size=20), st.lists(PIECES, max_size=8).map("".join)),
    images=st.lists(ASKED, max_size=3),
    combine=st.sampled_from(["convex", "rrf"]),
    weights=st.dictionaries(st.sampled_from(["visual", "speech", "text"]), st.sampled_from([0.0, 0.3, 1.0, 9.0])),
    counts=st.tuples(st.integers(1, 4), st.integers(1, 3)),
)
def test_any_query_with_a_picture_gives_hits_or_a_query_error(
    library_of_two: Path, text: str, images: Any, combine: Any, weights: Any, counts: tuple[int, int]
) -> None:
    engine = SearchEngine.open(library_of_two)
    options = {"weights": weights, "combine": combine, "top_k": counts[0], "per_video": counts[1]}
    try:
        hits = engine.search(text, images=images, **options)
    except QueryError as exc:
        assert exc.position is not None or images or not all(weights.values())
        return
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert len(hits) <= counts[0] and all(np.isfinite(hit.score) for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    named = {(like.video.name, like.time_s < 5) for like in images if isinstance(like, Like)}
    assert not named & {(Path((hit.video or b"").decode()).name, hit.start_s < 5) for hit in hits}


# --- clips of the library -------------------------------------------------------------------------------------------


def moving(start_s: float, *frames: FloatArray) -> Clip:
    """Return a clip of 5 s with these frames."""
    mean = np.mean(frames, axis=0)
    vector = np.asarray(mean / np.linalg.norm(mean), np.float32)
    times = start_s + np.arange(len(frames), dtype=np.float64)
    return Clip(start_s, start_s + 5, 0.0, {"visual": vector}, np.stack(frames), times)


def test_a_clip_finds_similar_clips_but_not_itself_or_its_copies(tmp_path: Path) -> None:
    shot = (axis(1), leaning(1, 2, 0.4))
    videos = {
        "asked": [moving(0, axis(5), axis(6)), moving(5, *shot), moving(10, leaning(1, 3, 0.3), leaning(1, 3, 0.35))],
        "copy": [moving(0, axis(5), axis(6)), moving(5, *shot)],
        "like": [moving(0, leaning(1, 4, 0.3), leaning(1, 4, 0.35))],
        "other": [moving(0, axis(3), axis(4))],
    }
    engine = engine_over(tmp_path, videos)
    hits = engine.search(images=[Like(Path("/videos/asked"), 7.5)])
    assert names(hits)[:2] in (["like", "asked"], ["asked", "like"])
    assert "copy" not in [name for hit in hits[:2] for name in names([hit])]
    of_itself = next(hit for hit in hits if names([hit]) == ["asked"])
    assert (of_itself.start_s, of_itself.end_s) == (10, 15), "another moment of its video, which does not grow over it"
    spans = [(hit.start_s, hit.end_s) for hit in engine.search(images=[Like(Path("/videos/asked"), 7.5)], per_video=3)]
    assert (5, 10) not in spans


def test_a_time_selects_the_clip_that_covers_it(tmp_path: Path) -> None:
    clips = [clip(5.0 * i, 5.0 * i + 5, visual=axis(i)) for i in range(3)]
    others = {f"v{i}": [clip(visual=axis(i))] for i in range(3)}
    engine = engine_over(tmp_path, {"long": clips, **others})
    for time_s, first in ((0.0, "v0"), (4.99, "v0"), (5.0, "v1"), (14.0, "v2"), (15.0, "v2")):
        assert names(engine.search(images=[Like(Path("/videos/long"), time_s)]))[0] == first
    with pytest.raises(QueryError, match=r"no clip of /videos/long covers 15\.5 s: it runs from 0 s to 15 s"):
        engine.search(images=[Like(Path("/videos/long"), 15.5)])
    with pytest.raises(QueryError, match="is not in this library"):
        engine.search(images=[Like(Path("/videos/none"), 1.0)])


@pytest.mark.parametrize(
    ("text", "video", "time_s"),
    [
        ("a.mp4@12.5", "a.mp4", 12.5),
        ("a.mp4@1:02", "a.mp4", 62),
        ("a.mp4@1:02:03.5", "a.mp4", 3723.5),
        ("me@home.mp4@7", "me@home.mp4", 7),
        ("a b@90s", "a b", 90),
    ],
)
def test_a_clip_is_given_by_video_and_time(text: str, video: str, time_s: float) -> None:
    assert Like.parse(text) == Like(Path(video), time_s)
    assert Like.parse(str(Like.parse(text))) == Like.parse(text)


@pytest.mark.parametrize("text", ["", "a.mp4", "@5", "a.mp4@", "a.mp4@x", "a.mp4@-5", "a.mp4@1:", "a.mp4@1e9", "a@nan"])
def test_a_wrong_clip_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"beach\.mp4@12\.5"):
        Like.parse(text)


@given(st.text(max_size=30))
def test_any_text_is_a_clip_or_wrong_usage(text: str) -> None:
    try:
        like = Like.parse(text)
    except UsageError:
        return
    assert Like.parse(str(like)).video == like.video and like.time_s >= 0


# --- the model of pictures ------------------------------------------------------------------------------------------


def test_a_missing_image_encoder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with writing(tmp_path) as writer:
        install(writer)
    pictures = Pictures(Library.open(tmp_path), SETUP)
    assert not pictures.are_readable
    with pytest.raises(ModelError, match="has no image encoder yet"):
        pictures.encode(tmp_path / "a.png")


def test_a_library_stores_its_image_encoder(tmp_path: Path) -> None:
    given_ = tmp_path / "model"
    given_.mkdir()
    (given_ / "meta.json").write_text("{}")
    with writing(tmp_path / "library") as writer:
        install(writer)
    library = Library.open(tmp_path / "library")
    Pictures(library, SETUP).take(given_)
    assert Pictures(library, SETUP).are_readable
    assert sorted(p.name for p in (tmp_path / "library" / "query").iterdir()) == ["by-hand-image"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_library_uses_the_encoder_in_place(tmp_path: Path) -> None:
    given_ = tmp_path / "model"
    given_.mkdir()
    with writing(tmp_path / "library") as writer:
        install(writer)
    (tmp_path / "library" / "query").chmod(0o500)
    pictures = Pictures(Library.open(tmp_path / "library"), SETUP)
    pictures.take(given_)
    assert pictures.are_readable and not any((tmp_path / "library" / "query").iterdir())
