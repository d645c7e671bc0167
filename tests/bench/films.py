"""Films with known parts: spans of public videos, one after the other, in files that are ingested as any other.

    python tests/bench/films.py MEDIA WORK

MEDIA: the folder of public videos, with SOURCES.csv. Writes WORK/held-out and WORK/development: films of PARTS parts,
`films.json` with their joins, and the library that `vfindex ingest --preset lite --no-ocr` makes of them. What is there
is kept, so that the other benches (chapters.py, digests.py) begin with this at no cost.

A part is a span of 8 to 40 s of a video that lasts at least 9 s; no film has two of one video. Pictures are scaled and
cropped to one size, without bars, so that no edge shows a join; a video without audio is silent. Every third video is
for development: no film of the held-out sets shows one.

digests.py has sets of its own, drawn anew: `digest-development`, `digest-held-out`, and `uneven-` of both, whose films
have one part of 30 s or more, at a random place, and four of at most 10 s. Nothing is encoded for these:
`joined_library` puts them together from the frame vectors of a library of the public videos.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from library_maker import add_video

from vfindex.storage.db.clips import StoredClip, StoredVectors
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import Clip
from vfindex.storage.writer import writing

PARTS = 5
FILMS = {"development": 10, "held-out": 20}
# Sets whose films are never encoded.
VECTORS = dict.fromkeys(("digest-development", "uneven-development", "digest-held-out", "uneven-held-out"), 20)
LEAST_VIDEO_S, LEAST_S, MOST_S = 9.0, 8.0, 40.0
# Of uneven films: seconds of the long part, at least, and of the others, at most.
LONG_S, SHORT_S = 30.0, 10.0
WIDTH_PX, HEIGHT_PX, FPS, RATE_HZ = 320, 180, 15, 16_000
_BLOCK = 1600  # samples of one audio frame


@dataclass(frozen=True)
class Part:
    """[start_s, start_s + length_s) of a video."""

    video: str
    start_s: float
    length_s: float


@dataclass(frozen=True)
class Film:
    """A film. parts: in order."""

    name: str
    parts: tuple[Part, ...]

    @property
    def joins_s(self) -> list[float]:
        """When each part but the first begins."""
        return list(accumulate(part.length_s for part in self.parts))[:-1]

    @property
    def length_s(self) -> float:
        return sum(part.length_s for part in self.parts)


def planned(sources: Path, kind: str) -> list[Film]:
    """Return the films of a set. Every video is used before one is used again."""
    with sources.open(newline="", encoding="utf-8") as file:
        rows = [(row["id"], float(row["duration"])) for row in csv.DictReader(file)]
    long = sorted(row for row in rows if row[1] >= LEAST_VIDEO_S)
    own = [row for number, row in enumerate(long) if (number % 3 == 0) == kind.endswith("development")]
    draw = random.Random(kind)
    if kind.startswith("uneven"):
        return [Film(f"{kind}-{number:02}", _uneven(draw, own)) for number in range(VECTORS[kind])]
    films, pool = [], []  # type: list[Film], list[tuple[str, float]]
    for number in range((FILMS | VECTORS)[kind]):
        chosen: list[tuple[str, float]] = []
        while len(chosen) < PARTS:
            pool = pool or draw.sample(own, len(own))
            later = next((row for row in pool if row not in chosen), None)
            if later is None:
                pool = []
                continue
            pool.remove(later)
            chosen.append(later)
        films.append(Film(f"{kind}-{number:02}", tuple(_part(draw, *row) for row in chosen)))
    return films


def _uneven(draw: random.Random, videos: Sequence[tuple[str, float]]) -> tuple[Part, ...]:
    long = draw.choice([row for row in videos if row[1] >= LONG_S + 0.5])
    others = draw.sample([row for row in videos if row != long], PARTS - 1)
    parts = [_part(draw, *row, (LEAST_S, SHORT_S)) for row in others]
    parts.insert(draw.randrange(PARTS), _part(draw, *long, (LONG_S, 2 * MOST_S)))
    return tuple(parts)


def _part(
    draw: random.Random, video: str, duration_s: float, lengths_s: tuple[float, float] = (LEAST_S, MOST_S)
) -> Part:
    length_s = round(min(draw.uniform(*lengths_s), duration_s - 0.5), 1)
    return Part(video, round(draw.uniform(0, duration_s - 0.5 - length_s), 1), length_s)


def _pictures(path: Path, part: Part) -> Iterator[np.ndarray]:
    """Yield what a video shows in a part, FPS pictures a second."""
    count, shown, last = round(part.length_s * FPS), 0, None
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        first_s = None
        for frame in container.decode(stream):
            first_s = frame.time if first_s is None else first_s
            if last is not None:
                while shown < count and part.start_s + shown / FPS < frame.time - first_s:
                    yield last
                    shown += 1
            if shown >= count:
                return
            last = _cropped(frame)
    for _ in range(shown, count):
        yield last


def _cropped(frame: av.VideoFrame) -> np.ndarray:
    scale = max(WIDTH_PX / frame.width, HEIGHT_PX / frame.height)
    width, height = max(WIDTH_PX, round(frame.width * scale)), max(HEIGHT_PX, round(frame.height * scale))
    image = frame.reformat(width, height, "rgb24").to_ndarray()
    top, left = (height - HEIGHT_PX) // 2, (width - WIDTH_PX) // 2
    return np.ascontiguousarray(image[top : top + HEIGHT_PX, left : left + WIDTH_PX])


def _sound(path: Path, part: Part) -> np.ndarray:
    """Return the samples of a part, int16; zeros where there is no audio."""
    samples = np.zeros(round(part.length_s * RATE_HZ), np.int16)
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return samples
        resampler = av.AudioResampler("s16", "mono", RATE_HZ)
        pieces = [out.to_ndarray().ravel() for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    found = np.concatenate(pieces) if pieces else samples[:0]
    cut = found[round(part.start_s * RATE_HZ) :][: len(samples)]
    samples[: len(cut)] = cut
    return samples


def write(film: Film, media: Path, path: Path) -> None:
    """Write a film as MPEG-4 with AAC."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=FPS)
        video.width, video.height, video.pix_fmt, video.bit_rate = WIDTH_PX, HEIGHT_PX, "yuv420p", 1_500_000
        audio = out.add_stream("aac", rate=RATE_HZ)
        audio.layout = "mono"
        number = at = 0
        for part in film.parts:
            source = media / part.video
            for picture in _pictures(source, part):
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                out.mux(video.encode(frame))
                number += 1
            samples = _sound(source, part)
            for first in range(0, len(samples), _BLOCK):
                block = av.AudioFrame.from_ndarray(samples[None, first : first + _BLOCK], "s16", "mono")
                block.pts, block.sample_rate, block.time_base = at, RATE_HZ, Fraction(1, RATE_HZ)
                out.mux(audio.encode(block))
                at += block.samples
        out.mux(video.encode(None))
        out.mux(audio.encode(None))


def films_of(media: Path, work: Path, kind: str) -> tuple[list[Film], Path]:
    """Return the films of a set and the library of them; both are made if they are not there."""
    folder = work / kind
    films, library = planned(media / "SOURCES.csv", kind), folder / "library"
    plan = folder / "films.json"
    text = json.dumps([asdict(film) | {"joins_s": film.joins_s} for film in films], indent=1)
    if plan.exists() and plan.read_text() == text:
        return films, library
    (folder / "files").mkdir(parents=True, exist_ok=True)
    for film in films:
        write(film, media / "videos", folder / "files" / f"{film.name}.mp4")
    command: Sequence[str | Path] = ("vfindex", "ingest", folder / "files", "--library", library)
    subprocess.run([*map(str, command), "--preset", "lite", "--no-ocr"], check=True)
    plan.write_text(text)
    return films, library


def joined_library(films: Sequence[Film], public: Path, folder: Path) -> None:
    """Make a library of films from the frames and clips that a library of the public videos has of their parts.

    A join is a boundary of clips, as where a cut is found. What is said, written and heard is left out.
    """
    library = Library.open(public)
    with library.snapshot() as snapshot, writing(folder) as writer:
        meta = LibraryMeta(snapshot)
        writer.install(meta.existing_setup(), {"visual": meta.priors["visual"]}, {})
        read = {}
        for video in snapshot.videos():
            if video.locations:
                clips = snapshot.clips_of(video.id)
                frames = snapshot.vectors([clip.id for clip in clips])
                read[os.path.basename(os.fsdecode(video.locations[0].path))] = (clips, frames)
        for film in films:
            starts_s = [0.0, *film.joins_s]
            made = [
                clip
                for at_s, part in zip(starts_s, film.parts, strict=True)
                for clip in _clips(part, at_s, *read[part.video])
            ]
            add_video(writer, f"{film.name}.mp4", made, end_s=film.length_s)
        writer.publish()


def _clips(part: Part, at_s: float, clips: Sequence[StoredClip], read: Mapping[int, StoredVectors]) -> Iterator[Clip]:
    """Yield the clips of a part that begins at `at_s` of a film; what has no frame joins a clip beside it."""
    end_s, kept = part.start_s + part.length_s, []
    for clip in clips:
        times_s = read[clip.id].frame_times_s
        inside = (times_s >= max(part.start_s, clip.start_s)) & (times_s < min(end_s, clip.end_s))
        if inside.any():
            kept.append((clip.start_s, times_s[inside], read[clip.id].frames[inside]))
    edges_s = [part.start_s, *(start_s for start_s, _, _ in kept[1:]), end_s]
    for (from_s, to_s), (_, times_s, frames) in zip(pairwise(edges_s), kept, strict=True):
        mean = frames.mean(axis=0)
        shift_s = at_s - part.start_s
        yield Clip(
            from_s + shift_s,
            to_s + shift_s,
            0.0,
            {"visual": mean / np.linalg.norm(mean)},
            frames,
            times_s + shift_s,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("media", type=Path)
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    for kind in FILMS:
        films, library = films_of(args.media, args.work, kind)
        print(f"{kind}: {len(films)} films, {sum(film.length_s for film in films) / 60:.1f} min, {library}")


if __name__ == "__main__":
    main()
