"""The JSON documents of a question to a library on another machine, written and read; nothing in them is trusted.

Reading raises KeyError, TypeError, ValueError or IndexError for what is not of the form.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

import numpy as np

from vfindex.search.calibration.labels import Calibration
from vfindex.search.hits import Facts, Found
from vfindex.search.query.filters import Unmatched
from vfindex.search.query.like import NoClip
from vfindex.search.rank.examples import ExampleClip
from vfindex.search.rank.lexical import Frequencies
from vfindex.search.rank.query_vectors import ImageSample
from vfindex.search.rank.score import Footage, ScoredClip
from vfindex.search.rank.source import Statistics
from vfindex.search.results import Hit, Match, Place, Span
from vfindex.storage.db.clips import StoredClip, StoredVectors, check_times
from vfindex.storage.modalities import frame_modality, modality_names
from vfindex.storage.records import Box, ClipKey, FloatArray, SegmentSource

Document = dict[str, Any]
T = TypeVar("T")
_NOTHING = StoredVectors({}, np.zeros((0, 1), np.float32), np.zeros(0))
_MAX_NUMBER, _MAX_COMPONENT = 2**62, 1000.0


# --- values ---------------------------------------------------------------------------------------------------------


def typed(value: Any) -> str:
    """Return a text that a person typed; bytes that are not UTF-8 are lone surrogates."""
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def text(value: Any) -> str:
    """Return a text that can be written as UTF-8."""
    typed(value).encode()
    return str(value)


def number(value: Any) -> float:
    """Return a number of which any sum is finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_NUMBER:
        raise TypeError(value)
    return float(value)


def whole(value: Any) -> int:
    """Return a whole number of 0 or more."""
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise TypeError(value)
    return value


def flag(value: Any) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def maybe(read: Callable[[Any], T], value: Any) -> T | None:
    """Return a value, None for null."""
    return None if value is None else read(value)


def listed(read: Callable[[Any], T], values: Any) -> tuple[T, ...]:
    """Return the values of a list."""
    if not isinstance(values, list):
        raise TypeError(values)
    return tuple(map(read, values))


def vector_text(vector: FloatArray) -> str:
    """Return a vector as base64 of little-endian float32."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def vector(value: Any) -> FloatArray:
    """Return the vector (dim,) of `vector_text`; those of embeddings have a length of about 1."""
    found = np.frombuffer(base64.b64decode(text(value), validate=True), "<f4").astype(np.float32)
    if not found.size or not np.abs(found).max() <= _MAX_COMPONENT:
        raise ValueError("no vector")
    return found


def path_bytes(value: Any) -> bytes:
    """Return a path; bytes that are not UTF-8 are lone surrogates."""
    return os.fsencode(typed(value))


def by_modality(read: Callable[[Any], T], values: Mapping[str, Any]) -> dict[str, T]:
    """Return modality -> value."""
    if not values.keys() <= set(modality_names()):
        raise ValueError("a modality that is none")
    return {m: read(each) for m, each in values.items()}


# --- statistics and facts -------------------------------------------------------------------------------------------


def statistics_document(statistics: Statistics) -> Document:
    """Return statistics for JSON."""
    return {
        "frequencies": [[each.documents, list(each.counts)] for each in statistics.frequencies],
        "sample": [statistics.sample.clips, list(statistics.sample.squares)],
    }


def read_statistics(data: Any, counts: Sequence[int], images: int) -> Statistics:
    """Return the statistics of a document. counts: the keywords of each moment. images: of the query."""
    frequencies = tuple(Frequencies(whole(n), listed(whole, each)) for n, each in data["frequencies"])
    sample = ImageSample(whole(data["sample"][0]), listed(number, data["sample"][1]))
    known = [len(each.counts) for each in frequencies]
    if len(known) != len(counts) or any(n not in (0, wanted) for n, wanted in zip(known, counts, strict=True)):
        raise ValueError("other keywords")
    if len(sample.squares) not in (0, images) or min(sample.squares, default=0.0) < 0:
        raise ValueError("other images")
    if any(count > each.documents for each in frequencies for count in each.counts if each.documents):
        raise ValueError("more than all documents")
    return Statistics(frequencies, sample)


def facts_document(facts: Facts) -> Document:
    """Return facts for JSON."""
    return {
        "weights": dict(facts.weights),
        "models": sorted(facts.models),
        "calibration": facts.calibration,
        "unmatched": [[each.filter, each.value, list(each.near)] for each in facts.unmatched],
    }


def read_facts(data: Any) -> Facts:
    """Return the facts of a document."""
    calibration = maybe(text, data["calibration"])
    for each in (read.modalities.values() for read in [Calibration.from_json(calibration)] if read is not None):
        for of in each:
            numbers = (of.auc, of.known, of.background, of.weight, of.low, of.medium, of.high, of.slope, of.offset)
            if not all(isinstance(value, int | float) and not math.isnan(value) for value in numbers):
                raise ValueError("a calibration that is none")
    return Facts(
        by_modality(number, data["weights"]),
        listed(text, data["models"]),
        calibration,
        [_read_unmatched(*each) for each in data["unmatched"]],
    )


def _read_unmatched(of: Any, value: Any, near: Any) -> Unmatched:
    if of not in ("in", "lang", "speaker", "label"):
        raise ValueError("a filter that is none")
    return Unmatched(of, typed(value), listed(text, near))


def example_document(found: ExampleClip | NoClip) -> Document:
    """Return a clip of the query, or why there is none, for JSON."""
    if isinstance(found, NoClip):
        return {"reason": str(found), "has_video": found.has_video}
    return {"fingerprint": found.fingerprint, "middle_s": found.middle_s, "image": vector_text(found.image)}


def read_example(data: Any, of: int) -> ExampleClip | NoClip:
    """Return the clip of a document, or why there is none. of: the number of its library."""
    if "reason" in data:
        return NoClip(typed(data["reason"]), has_video=flag(data["has_video"]))
    return ExampleClip(of, text(data["fingerprint"]), number(data["middle_s"]), vector(data["image"]))


# --- scored clips ---------------------------------------------------------------------------------------------------


def clip_document(scored: ScoredClip) -> Document:
    """Return what a scored clip is ranked and compared by, for JSON. Still pictures are compared with nothing."""
    clip, footage = scored.clip, scored.footage
    document: Document = {
        "clip": [clip.id, clip.video_id, clip.start_s, clip.end_s],
        "scores": dict(scored.modalities),
    }
    if footage.moves and footage.visual is not None:
        document["visual"] = vector_text(footage.visual)
        document["texts"] = {m: vector_text(each) for m, each in footage.texts.items()}
    return document


def read_clip(data: Any, of: int, dims: Mapping[str, int]) -> ScoredClip:
    """Return the scored clip of a document. of: the number of its library. dims: of the vectors of each modality."""
    id_, video_id, start_s, end_s = data["clip"]
    check_times(number(start_s), number(end_s))
    moves = "visual" in data
    visual = vector(data["visual"]) if moves else None
    texts = by_modality(vector, data["texts"]) if moves else {}
    vectors = texts if visual is None else texts | {frame_modality(): visual}
    if any(len(each) != dims[m] for m, each in vectors.items()):
        raise ValueError("another dimension")
    shown = Footage(visual, texts, moves)
    clip = StoredClip(whole(id_), whole(video_id), number(start_s), number(end_s), None)
    return ScoredClip(clip, by_modality(number, data["scores"]), _NOTHING, library=of, shown=shown)


# --- hits -----------------------------------------------------------------------------------------------------------


def found_document(found: Found, spans: Iterable[tuple[float, float]]) -> Document:
    """Return what a library has of results, for JSON. spans: of its results, in their order."""
    return {
        "hits": [
            {"ids": list(ids), "span": list(span), "hit": hit.to_dict() | {"score": hit.score, "thumbnail": None}}
            for (ids, hit), span in zip(found.hits.items(), spans, strict=True)
        ],
        "videos": [[id_, None if path is None else os.fsdecode(path)] for id_, path in found.videos.items()],
        "copies": [[name, [os.fsdecode(path) for path in paths]] for name, paths in found.copies.items()],
    }


def read_found(data: Any, place: str) -> tuple[Found, dict[tuple[int, ...], tuple[float, float]]]:
    """Return what a library has of results, and the span of each of its own. place: the address of the library."""
    hits, spans = {}, {}
    for each in data["hits"]:
        ids = listed(whole, each["ids"])
        hits[ids] = read_hit(each["hit"], place)
        start_s, end_s = listed(number, each["span"])
        spans[ids] = (start_s, end_s)
    videos = {whole(id_): maybe(path_bytes, path) for id_, path in data["videos"]}
    copies = {text(name): listed(path_bytes, paths) for name, paths in data["copies"]}
    return Found(hits, videos, copies), spans


def read_hit(data: Any, place: str) -> Hit:
    """Return the hit of `Hit.to_dict`, without what its machine alone has: the thumbnail."""
    fingerprint, start_ms = data["key"]
    if type(start_ms) is not int:
        raise TypeError(start_ms)
    modalities = by_modality(lambda value: maybe(number, value), data["modalities"])
    if modalities.keys() != set(modality_names()):
        raise ValueError("other modalities")
    return Hit(
        rank=0,
        library=place,
        video=maybe(path_bytes, data["video"]),
        video_id=whole(data["video_id"]),
        clip_id=whole(data["clip_id"]),
        key=ClipKey(text(fingerprint), start_ms),
        start_s=number(data["start_s"]),
        end_s=number(data["end_s"]),
        frame_s=maybe(number, data["frame_s"]),
        score=number(data["score"]),
        share=None,
        confidence=None,
        coarse=flag(data["coarse"]),
        modalities={m: modalities[m] for m in modality_names()},
        words=listed(text, data["words"]),
        snippet=maybe(text, data["snippet"]),
        moments=listed(_read_span, data["moments"]),
        also=listed(lambda each: _read_place(each, place), data["also"]),
        matches=listed(_read_match, data["matches"]),
        missing=by_modality(text, data["missing"]),
        thumbnail=None,
        labels={text(name): number(value) for name, value in data.get("labels", {}).items()},  # an older one has none
    )


def _read_span(data: Any) -> Span:
    frame_s = maybe(number, data["frame_s"])
    return Span(number(data["start_s"]), number(data["end_s"]), frame_s, number(data["score"]))


def _read_place(data: Any, place: str) -> Place:
    return Place(maybe(path_bytes, data["video"]), number(data["start_s"]), number(data["end_s"]), place)


def _read_match(data: Any) -> Match:
    source: SegmentSource | None = data["source"]
    if source is not None and source not in get_args(SegmentSource):
        raise ValueError("a source that is none")
    if data["track"] not in modality_names():
        raise ValueError("a track that is none")
    return Match(
        listed(text, data["words"]),
        text(data["text"]),
        text(data["kind"]),
        data["track"],
        maybe(number, data["start_s"]),
        maybe(number, data["end_s"]),
        source,
        maybe(_read_box, data["box"]),
        maybe(number, data["phrase_s"]),
        listed(text, data["speakers"]),
    )


def _read_box(data: Any) -> Box:
    left, top, right, bottom = listed(number, data)
    return left, top, right, bottom
