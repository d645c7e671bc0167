"""A synthetic library of any size: python tests/bench/synthetic.py FOLDER --clips N [--words]

For benchmarks of search, without videos: setup, priors and query encoders are those of `lite`, everything else is
random (seed 0). A video has 20 clips of 2 to 12 s and some topics. Its frames are mixtures of five label embeddings, as
`lite` makes them; half of the videos have speech, in sentences whose words follow Zipf's law over the tokenizer's
vocabulary, which is sorted by frequency; their vectors are mixtures of embedded sentences. Videos are in 100 folders,
dated over ten years, and one in a hundred is in Finnish, for filters.

--words: for filters and words alone: no vectors and no index; a video has 50 clips, speech and a date in its tags; a
clip has three segments, one in ten of which names one of 200 speakers. The commonest word is in 60 % of the documents.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from vfindex.indexer.models.factory import install
from vfindex.indexer.models.lite import ensure_lite
from vfindex.indexer.models.presets import Choice
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.joint.codecs import checksum, pack_frames
from vfindex.storage.records import FloatArray
from vfindex.storage.text.tokenizer import index_form
from vfindex.storage.writer import writing

CLIPS_PER_VIDEO = 20
# Of a library for words alone.
WORDY_CLIPS, SEGMENTS_PER_CLIP, SPEAKERS = 50, 3, 200
FRAMES_PER_CLIP = 2
FOLDERS = 100
# Share of clips with speech in a video with speech; every second video has it.
SPOKEN = 0.8
# Videos written in one transaction: 8,000 clips, 40 MB.
BATCH_VIDEOS = 400
SENTENCES = 2000
TEN_YEARS_NS = 10 * 365 * 86_400 * 10**9
# Table -> the columns that are written; all others have their defaults.
COLUMNS = {
    "video": "id fingerprint state size_bytes container codec width_px height_px rotation_deg start_s last_s end_s"
    " frames has_audio title tags chapters problem recognised coarse state_before",
    "location": "path video_id size_bytes mtime_ns inode beside",
    "unit": "id video_id number start_s end_s state attempts error coverage",
    "clip": "id video_id unit_id start_ms start_s end_s start_uncertainty_s thumbnail crc32",
    "embedding": "clip_id modality vector crc32",
    "frame": "clip_id times vectors crc32",
    "segment": "id video_id unit_id start_s end_s text language confidence source crc32 speakers",
    "document": "id video_id segment_id kind text",
}
_FIRST_MTIME_NS = 1_420_070_400 * 10**9  # 2015


@dataclass(frozen=True)
class Material:
    """Source of the clips. labels (n, dim), sentences (n, dim): unit vectors. words: by falling frequency."""

    labels: FloatArray
    sentences: FloatArray
    words: NDArray[np.str_]


def make(folder: Path, clips: int, cache: Path, *, words_alone: bool = False) -> None:
    """Make a library of `clips` clips in `folder`, and publish its joint index unless it has words alone."""
    with writing(folder) as writer:
        install(writer, Choice(preset="lite"), "auto", cache, say=print)
        material, rng = load_material(cache), np.random.default_rng(0)
        videos = clips // (WORDY_CLIPS if words_alone else CLIPS_PER_VIDEO)
        for first in range(0, videos, BATCH_VIDEOS):
            numbers = range(first + 1, min(first + BATCH_VIDEOS, videos) + 1)
            with writer.catalog.transaction() as connection:
                if words_alone:
                    add_wordy_videos(connection, numbers, material.words, rng)
                else:
                    add_videos(connection, numbers, material, rng)
        if not words_alone:
            writer.publish()


def load_material(cache: Path) -> Material:
    """Return labels and vocabulary of `lite`, and SENTENCES sentences embedded by it."""
    paths = ensure_lite(cache, say=print)
    vocabulary = json.loads((paths.text / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    words = np.array([word for word in ordered if len(word) > 1 and word.isascii() and word.isalpha()])
    rng = np.random.default_rng(1)
    texts = [" ".join(line) for line in _sentences(words, rng, np.full(SENTENCES, 8))]
    encoder = TextEncoder.open(paths.text, threads=2)
    return Material(np.load(paths.visual / "labels.npy"), encoder.encode(texts), words)


def add_videos(connection: Connection, numbers: Sequence[int], material: Material, rng: np.random.Generator) -> None:
    """Add the videos of these numbers, which are their ids, with all their clips and words."""
    n = len(numbers)
    speaks = rng.random(n) < 0.5
    titles = [" ".join(line) for line in _sentences(material.words, rng, rng.integers(2, 6, n))]
    lasts_s = _lengths(rng, n)
    tags = ["{}"] * n
    _add_rows(connection, "video", _videos(numbers, titles, tags, lasts_s, rng))
    _add_rows(connection, "location", _locations(numbers, rng))
    coverage = [json.dumps({"speech": "recognised" if yes else "no speech", "visual": "keyframes"}) for yes in speaks]
    _add_rows(
        connection,
        "unit",
        ((id_, id_, 0, None, None, "done", 1, None, covered) for id_, covered in zip(numbers, coverage, strict=True)),
    )
    _add_words(connection, [(id_, None, "title", title) for id_, title in zip(numbers, titles, strict=True)])
    _add_clips(connection, numbers, lasts_s, rng)
    _add_vectors(connection, numbers, speaks, material, rng)
    _add_speech(connection, numbers, speaks, lasts_s, material, rng)


def add_wordy_videos(
    connection: Connection, numbers: Sequence[int], words: NDArray[np.str_], rng: np.random.Generator
) -> None:
    """Add the videos of these numbers, which are their ids, with clips without vectors, and many segments."""
    n = len(numbers)
    titles = [" ".join(line) for line in _sentences(words, rng, rng.integers(2, 6, n))]
    lasts_s = _lengths(rng, n, WORDY_CLIPS)
    days = np.datetime64("2015-01-01T00:00:00", "s") + rng.integers(0, TEN_YEARS_NS // 10**9, n)
    _add_rows(
        connection,
        "video",
        _videos(numbers, titles, [json.dumps({"creation_time": f"{day}Z"}) for day in days], lasts_s, rng),
    )
    _add_rows(connection, "location", _locations(numbers, rng))
    _add_rows(connection, "unit", ((id_, id_, 0, None, None, "done", 1, None, "{}") for id_ in numbers))
    _add_words(connection, [(id_, None, "title", title) for id_, title in zip(numbers, titles, strict=True)])
    _add_clips(connection, numbers, lasts_s, rng)
    count = WORDY_CLIPS * SEGMENTS_PER_CLIP
    texts = _sentences(words, rng, rng.integers(4, 18, n * count))
    named = np.where(rng.random(n * count) < 0.1, rng.zipf(1.5, n * count) % SPEAKERS, -1).tolist()
    segments, documents = [], []
    for row, id_ in enumerate(numbers):
        language, length_s = "fi" if id_ % 100 == 0 else "en", float(lasts_s[row].sum())
        for number in range(count):
            text, who = " ".join(next(texts)), named[row * count + number]
            segment_id = (id_ - 1) * count + number + 1
            start_s, end_s = (round(length_s * (number + part) / count, 3) for part in (0, 0.9))
            crc = checksum(start_s, end_s, text)
            speaker = f"Speaker Number{who}" if who >= 0 else None
            segments.append((segment_id, id_, id_, start_s, end_s, text, language, 0.9, "asr", crc, speaker))
            documents.append((id_, segment_id, "speech", text))
    _add_rows(connection, "segment", segments)
    _add_words(connection, documents)


def _lengths(rng: np.random.Generator, videos: int, clips: int = CLIPS_PER_VIDEO) -> NDArray[np.float64]:
    """Return the lengths of the clips (videos, clips) in seconds, to a millisecond."""
    return np.round(rng.uniform(2.0, 12.0, (videos, clips)), 3)


def _videos(
    numbers: Sequence[int],
    titles: Sequence[str],
    tags: Sequence[str],
    lasts_s: NDArray[np.float64],
    rng: np.random.Generator,
) -> Iterator[tuple[Any, ...]]:
    for id_, title, tag, length_s in zip(numbers, titles, tags, lasts_s.sum(axis=1).tolist(), strict=True):
        print_ = f"{rng.integers(2**62):016x}{id_:016x}"
        shape = ("mp4", "h264", 1280, 720, 0, 0.0, length_s - 0.04, length_s, round(25 * length_s), 1)
        yield (id_, print_, "indexed", 10**8, *shape, title, tag, "[]", None, 1, 0, "indexed")


def _locations(numbers: Sequence[int], rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    times = _FIRST_MTIME_NS + rng.integers(0, TEN_YEARS_NS, len(numbers))
    for id_, mtime_ns in zip(numbers, times.tolist(), strict=True):
        yield f"/videos/shelf-{id_ % FOLDERS:02d}/{id_:07d}.mp4".encode(), id_, 10**8, mtime_ns, id_, ""


def _add_clips(
    connection: Connection, numbers: Sequence[int], lasts_s: NDArray[np.float64], rng: np.random.Generator
) -> None:
    ends = np.round(np.cumsum(lasts_s, axis=1), 3)
    starts = np.round(ends - lasts_s, 3)
    rows = []
    for row, id_ in enumerate(numbers):
        for number, (start_s, end_s) in enumerate(zip(starts[row].tolist(), ends[row].tolist(), strict=True)):
            start_ms = round(1000 * start_s)
            crc = checksum(start_ms, start_s, end_s)
            rows.append((_clip_id(id_, number, lasts_s.shape[1]), id_, id_, start_ms, start_s, end_s, 0.0, None, crc))
    _add_rows(connection, "clip", rows)


def _add_vectors(
    connection: Connection,
    numbers: Sequence[int],
    speaks: NDArray[np.bool_],
    material: Material,
    rng: np.random.Generator,
) -> None:
    n = len(numbers)
    frames = _pictures(material.labels, n, rng)  # (n, clips, frames, dim)
    visual = _unit(frames.mean(axis=2)).astype("<f2")
    speech = _meanings(material.sentences, (n, CLIPS_PER_VIDEO), rng)
    texts = _meanings(material.sentences, (n,), rng)
    silent = rng.random((n, CLIPS_PER_VIDEO)) >= SPOKEN
    vectors: list[tuple[int, str, bytes]] = []
    framed = []
    for row, id_ in enumerate(numbers):
        for number in range(CLIPS_PER_VIDEO):
            clip_id = _clip_id(id_, number)
            blobs = pack_frames(frames[row, number], np.arange(FRAMES_PER_CLIP, dtype=np.float64))
            framed.append((clip_id, *blobs, checksum(*blobs)))
            vectors.append((clip_id, "visual", visual[row, number].tobytes()))
            if speaks[row] and not silent[row, number]:
                vectors.append((clip_id, "speech", speech[row, number].tobytes()))
            vectors.append((clip_id, "text", texts[row].tobytes()))
    _add_rows(connection, "embedding", ((*each, checksum(each[2])) for each in vectors))
    _add_rows(connection, "frame", framed)


def _pictures(labels: FloatArray, videos: int, rng: np.random.Generator) -> FloatArray:
    """Return frames (videos, CLIPS_PER_VIDEO, FRAMES_PER_CLIP, dim): three topics of the video, two of the clip."""
    shape = (videos, CLIPS_PER_VIDEO, FRAMES_PER_CLIP)
    topics = rng.integers(0, len(labels), (videos, 1, 1, 3))
    own = rng.integers(0, len(labels), (videos, CLIPS_PER_VIDEO, 1, 2))
    mixed = np.zeros((*shape, labels.shape[1]), np.float32)
    for each in (topics, own):
        for column in range(each.shape[-1]):
            share = rng.gamma(0.7, size=(*shape, 1)).astype(np.float32)
            mixed += share * labels[np.broadcast_to(each[..., column], shape)]
    return _unit(mixed)


def _meanings(sentences: FloatArray, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float16]:
    """Return speech vectors (*shape, dim): mixtures of three sentences, mostly of one."""
    mixed = np.zeros((*shape, sentences.shape[1]), np.float32)
    for share in (1.0, 0.5, 0.5):
        weight = share * rng.random((*shape, 1)).astype(np.float32)
        mixed += weight * sentences[rng.integers(0, len(sentences), shape)]
    return np.asarray(_unit(mixed), "<f2")


def _add_speech(
    connection: Connection,
    numbers: Sequence[int],
    speaks: NDArray[np.bool_],
    lasts_s: NDArray[np.float64],
    material: Material,
    rng: np.random.Generator,
) -> None:
    """Add one segment per clip to the videos with speech."""
    spoken = [(id_, float(lasts_s[row].sum())) for row, id_ in enumerate(numbers) if speaks[row]]
    texts = _sentences(material.words, rng, rng.integers(4, 18, len(spoken) * CLIPS_PER_VIDEO))
    segments, words = [], []
    for id_, length_s in spoken:
        language = "fi" if id_ % 100 == 0 else "en"
        for number in range(CLIPS_PER_VIDEO):
            text, segment_id = " ".join(next(texts)), _clip_id(id_, number)
            start_s, end_s = (round(length_s * (number + part) / CLIPS_PER_VIDEO, 3) for part in (0, 0.9))
            crc = checksum(start_s, end_s, text)
            segments.append((segment_id, id_, id_, start_s, end_s, text, language, 0.9, "asr", crc, None))
            words.append((id_, segment_id, "speech", text))
    _add_rows(connection, "segment", segments)
    _add_words(connection, words)


def _add_words(connection: Connection, rows: Sequence[tuple[int, int | None, str, str]]) -> None:
    """Add documents (video id, segment id, kind, text) and their words to the full text index."""
    first = int(connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM document").scalar_one()) + 1
    _add_rows(connection, "document", ((first + n, *row) for n, row in enumerate(rows)))
    indexed = [(first + n, index_form(row[3])) for n, row in enumerate(rows)]
    if indexed:
        connection.exec_driver_sql("INSERT INTO document_fts(rowid, text) VALUES (?, ?)", indexed)


def _add_rows(connection: Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert rows with values in the order of COLUMNS."""
    known = list(rows)
    if known:
        names = COLUMNS[table]
        marks = ", ".join("?" * len(names.split()))
        connection.exec_driver_sql(f"INSERT INTO {table} ({', '.join(names.split())}) VALUES ({marks})", known)


def _sentences(
    words: NDArray[np.str_], rng: np.random.Generator, lengths: NDArray[np.int64]
) -> Iterator[Sequence[str]]:
    """Yield one sentence per length; word frequency falls as 1 / rank."""
    ranks = np.exp(rng.random(int(lengths.sum())) * np.log(len(words))).astype(np.int64)
    drawn = words[np.minimum(ranks, len(words)) - 1].tolist()
    stop = 0
    for length in lengths.tolist():
        start, stop = stop, stop + length
        yield drawn[start:stop]


def _clip_id(video_id: int, number: int, clips: int = CLIPS_PER_VIDEO) -> int:
    return (video_id - 1) * clips + number + 1


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a synthetic library.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=20_000, help="how many (default: 20000)")
    parser.add_argument("--words", action="store_true", help="filters and words alone, without vectors")
    parser.add_argument("--cache", type=Path, required=True, help="where the models of `lite` are, or will be")
    arguments = parser.parse_args()
    start = time.perf_counter()
    make(arguments.folder, arguments.clips, arguments.cache, words_alone=arguments.words)
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{arguments.clips} clips in {time.perf_counter() - start:.0f} s, {size / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
