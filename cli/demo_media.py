"""A few small videos to try the program on: pans and zooms over the photographs inside scikit-image.

Speech (sidecar subtitles) and images of a video are about different things, so a query for speech and one for images
find different videos. The file names say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from PIL import Image

from vfindex.indexer.models.export.calibration_images import crop_box, open_photograph, photograph_folder

WIDTH_PX, HEIGHT_PX = 640, 360
FPS = 12
KEYFRAME_EVERY_S = 2


@dataclass(frozen=True, slots=True)
class View:
    """A rectangle of the film's shape in a photograph.

    x, y: its centre, 0 to 1 of width and height. zoom: 1 is the largest that fits, 2 shows half its width.
    """

    x: float
    y: float
    zoom: float


@dataclass(frozen=True, slots=True)
class Shot:
    """A camera move over one photograph of scikit-image's `data` folder, from `start` to `end`."""

    photograph: str
    start: View
    end: View
    duration_s: int


@dataclass(frozen=True, slots=True)
class DemoVideo:
    """A video to be made. speech: one subtitle after another, spread evenly over its time."""

    name: str
    shots: tuple[Shot, ...]
    speech: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A query for the demo, and the video that must rank first."""

    text: str
    modality: Literal["visual", "speech"]
    expected: str


VIDEOS = (
    DemoVideo(
        "MVI_0001.mp4",
        (
            Shot("gravel.png", View(0.4, 0.3, 1.3), View(0.6, 0.7, 1.3), 4),
            Shot("chelsea.png", View(0.5, 0.3, 1.0), View(0.5, 0.38, 1.2), 7),
        ),
        (
            "Mix the flour with water, salt and a little yeast.",
            "Knead the dough for ten minutes, then let it rise overnight.",
            "Bake the bread in a very hot oven until the crust is brown.",
        ),
    ),
    DemoVideo(
        "MVI_0002.mp4",
        (
            Shot("coffee.png", View(0.5, 0.5, 1.0), View(0.55, 0.5, 1.4), 7),
            Shot("brick.png", View(0.3, 0.5, 1.2), View(0.7, 0.5, 1.2), 4),
        ),
        (
            "The old lighthouse keeper rowed out in the storm.",
            "Nine sailors were clinging to the sinking ship.",
            "He saved every one of them from the waves.",
        ),
    ),
    DemoVideo(
        "MVI_0003.mp4",
        (
            Shot("astronaut.png", View(0.45, 0.3, 1.0), View(0.5, 0.6, 1.1), 7),
            Shot("moon.png", View(0.5, 0.3, 1.0), View(0.5, 0.7, 1.0), 4),
        ),
        (
            "Plant the tomato seeds in April, one in each pot.",
            "Water the seedlings in the morning and keep out the slugs.",
            "By August the whole vegetable garden is full of ripe tomatoes.",
        ),
    ),
    DemoVideo(
        "MVI_0004.mp4",
        (
            Shot("hubble_deep_field.jpg", View(0.3, 0.4, 1.4), View(0.6, 0.6, 1.4), 4),
            Shot("rocket.jpg", View(0.5, 0.6, 1.0), View(0.5, 0.45, 1.2), 7),
        ),
        (
            "Hold the violin under your chin and the bow lightly in your right hand.",
            "Practise the scales slowly before you play the melody.",
            "The orchestra needs every musician to listen to the others.",
        ),
    ),
    DemoVideo(
        "MVI_0005.mp4",
        (
            Shot("motorcycle_left.png", View(0.5, 0.5, 1.0), View(0.5, 0.55, 1.4), 7),
            Shot("grass.png", View(0.5, 0.3, 1.2), View(0.5, 0.7, 1.2), 4),
        ),
        (
            "The bank raised its interest rate again this week.",
            "A mortgage now costs a young family far more each month.",
            "Put some money into a savings account before you buy a house.",
        ),
    ),
)
QUESTIONS = (
    Question("a cat", "visual", "MVI_0001.mp4"),
    Question("a cup of coffee on a table", "visual", "MVI_0002.mp4"),
    Question("how to bake bread", "speech", "MVI_0001.mp4"),
    Question("growing tomatoes in the garden", "speech", "MVI_0003.mp4"),
)


def make_demo_videos(folder: Path) -> list[Path]:
    """Write the demo's videos and their .srt files into a folder, and return the videos' paths in order.

    H.264 (MPEG-4 where the codec library lacks it), 640x360, 12 frames a second, some 10 s each, without audio. The
    same versions of the libraries write the same bytes. Files of these names are overwritten.
    Raises VfindexError if a photograph is missing from the installed scikit-image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photographs = photograph_folder()
    paths = []
    for video in VIDEOS:
        path = folder / video.name
        _encode(path, (frame for shot in video.shots for frame in _frames(photographs, shot)))
        path.with_suffix(".srt").write_text(_subtitles(video), encoding="utf-8")
        paths.append(path)
    return paths


def _frames(photographs: Path, shot: Shot) -> Iterator[Image.Image]:
    """Yield the frames of a camera move, (640, 360) RGB."""
    photograph = open_photograph(photographs / shot.photograph)
    count = shot.duration_s * FPS
    for number in range(count):
        part = number / (count - 1)
        view = _between(shot.start, shot.end, part)
        box = crop_box(photograph.size, view.x, view.y, 1 / view.zoom)
        yield photograph.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.BICUBIC, box=box)


def _between(start: View, end: View, part: float) -> View:
    return View(*(a + (b - a) * part for a, b in zip(astuple(start), astuple(end), strict=True)))


def _encode(path: Path, frames: Iterator[Image.Image]) -> None:
    """Write frames as a video; in one thread, because multithreaded encoders are not deterministic."""
    has_h264 = "libx264" in av.codecs_available
    options = {"preset": "superfast", "crf": "26"} if has_h264 else {"qscale": "4"}
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264" if has_h264 else "mpeg4", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = FPS * KEYFRAME_EVERY_S
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _subtitles(video: DemoVideo) -> str:
    """Return the subtitles in SubRip format."""
    length_s = sum(shot.duration_s for shot in video.shots) / len(video.speech)
    cues = []
    for number, text in enumerate(video.speech):
        start, end = (_srt_time(length_s * (number + edge)) for edge in (0, 1))
        cues.append(f"{number + 1}\n{start} --> {end}\n{text}\n")
    return "\n".join(cues)


def _srt_time(time_s: float) -> str:
    minutes, milliseconds = divmod(round(time_s * 1000), 60_000)
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"00:{minutes:02}:{seconds:02},{milliseconds:03}"
