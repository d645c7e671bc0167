"""Text to unit vectors by ONNX Runtime: queries, transcripts and titles.

A model is a folder: model.onnx and model.onnx.data (optimised when it was exported, the weights apart so that they are
memory-mapped), tokenizer.json (truncates by itself), meta.json. Nothing here imports torch or transformers.

A model of 4 bits (FOUR_BIT_FORMAT) has the files of `pieces` in place of tokenizer.json, and words.npy: its graph
begins at the vectors of the tokens, see `word_table`.

meta.json has the model's name, dimensions and files, and these fields if they differ from the default in brackets:
query `templates` (["{}"]), the prompt before a `passage` (""), open_clip's `cleaning` (none), the `pad` token (0) and
the `length` that texts are padded to (the longest in the batch). An optional colours.npy has the colour axes in the
space of the images of `lite`, see `colours`; centre.npy what a query's vector has too much there, and its length is 1.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from vfindex.storage.encoders.cleaning import CLEANINGS
from vfindex.storage.encoders.colours import colour_vector, colours_named
from vfindex.storage.encoders.pieces import PIECES, PieceTokenizer
from vfindex.storage.encoders.word_table import WORDS, WordTable
from vfindex.storage.errors import ModelError
from vfindex.storage.files.permissions import is_allowed, unreadable
from vfindex.storage.files.regular import read_file, regular
from vfindex.storage.files.resources import lack
from vfindex.storage.records import FloatArray
from vfindex.storage.text.folding import readable_form

if TYPE_CHECKING:
    from tokenizers import Tokenizer

META_FORMAT = 1
# Of a model whose words and weights have 4 bits; versions that know only META_FORMAT refuse it with a sentence.
FOUR_BIT_FORMAT = 2
# Texts are cut to this many characters before tokenization: the models read 256 tokens, about 1,300 characters of
# prose, and tokenizing megabytes takes seconds.
MAX_CHARACTERS = 8192
# Tokens of one batch, padding included. Measured, sentences a processor second: 123 with 256, 113 with 512, 100 with
# 1024, 83 with 2048, which leave the cache; single sentences 70.
BATCH_TOKENS = 384
# Not hashed when a model is opened; an .npz file has a checksum of its own, which reading it compares.
_WEIGHTS = ("model.onnx.data", WORDS, PIECES)
QUERY, WORD = "{}", "{word}"  # placeholders of the query, and of each of its words, in a template
COLOUR = "{colour}"  # a template by itself: the colours named in the query
AXES = "colours.npy"
CENTRE = "centre.npy"
_REMEDY = "remove this folder and run the command again, which rebuilds it"
# ONNX Runtime's exceptions have no common parent below Exception.
_ORT_ERRORS = (
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
)


class TextEncoder:
    """An open text model. `encode` may be called from several threads at once.

    model: its name. dim: dimensions of its vectors. templates: the default prompts of a query.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        tokenizer: Tokenizer | PieceTokenizer,
        meta: Mapping[str, Any],
        arrays: Mapping[str, FloatArray],
        words: WordTable | None = None,
    ) -> None:
        """arrays: of AXES and CENTRE, where the model has them."""
        self._session = session
        self._tokenizer = tokenizer
        self._axes, self._centre = arrays.get(AXES), arrays.get(CENTRE)
        self._words = words
        self.model: str = str(meta["model"])
        self.dim: int = int(meta["dimensions"])
        self.templates: tuple[str, ...] = tuple(meta.get("templates", [QUERY]))
        self._passage = str(meta.get("passage", ""))
        self._clean = CLEANINGS[meta["cleaning"]] if "cleaning" in meta else str
        self._pad_id = int(meta.get("pad", 0))
        self._length = int(meta.get("length", 0))

    @classmethod
    def open(cls, folder: Path, *, threads: int = 1) -> TextEncoder:
        """Return the encoder in a folder; checks the length of every file, and the hash of all but the weights.

        Raises ModelError if a file is missing, damaged or of another version.
        """
        meta = read_meta(folder)
        check_files(folder, meta, weights=False)
        try:
            arrays = {
                name: np.load(folder / name, allow_pickle=False) for name in (AXES, CENTRE) if name in meta["files"]
            }
            if meta["format"] == FOUR_BIT_FORMAT:
                pieces, words = PieceTokenizer.open(folder, int(meta["max_tokens"])), WordTable.open(folder)
                return cls(open_session(folder, threads=threads, prepack=True), pieces, meta, arrays, words)
            from tokenizers import Tokenizer  # 17 ms that a search without it does not take

            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.no_padding()
            return cls(open_session(folder, threads=threads), tokenizer, meta, arrays)
        except (KeyError, ValueError, TypeError, BadZipFile) as exc:
            raise ModelError(f"{folder}: the text model's description is incomplete; {_REMEDY}") from exc

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1, in the order of `texts`; no prompt is added.

        Long texts are truncated; an empty text has the vector of a sentence without words. Raises ModelError if damaged
        weights give non-finite numbers: opening does not hash them.
        """
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        tokens = self.tokens(texts)
        for rows in _batches([self._length or len(t) for t in tokens]):
            ids, mask = self._padded([tokens[row] for row in rows])
            given = {"ids": ids} if self._words is None else {"words": self._words.rows(ids)}
            vectors[rows] = self._session.run(None, {**given, "mask": mask})[0]
        return checked(vectors, self.model)

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32 as `encode` does, of passages: with the model's passage prompt."""
        return self.encode([self._passage + text for text in texts])

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text's tokens, special ones included, padding not."""
        cleaned = [self._clean(readable(text)) for text in texts]
        if isinstance(self._tokenizer, PieceTokenizer):
            return self._tokenizer.encode(cleaned)
        return [encoding.ids for encoding in self._tokenizer.encode_batch(cleaned)]

    def encode_queries(
        self, queries: Sequence[tuple[str, Sequence[str]]], template_sets: Sequence[Sequence[str]]
    ) -> FloatArray:
        """Return the vectors of queries (n, n_sets, dim) float32 of length 1, one per set of templates: its mean.

        queries: text and content words of each. templates: `{}` is replaced by the query; a template with `{word}`
        gives the mean over the words and is dropped without any; `{colour}` adds the colours named by the words, if the
        model has colour axes. Equal prompts are encoded once, texts of similar length in one run. Raises ValueError for
        a set without a usable template.
        """
        filled = [[_fill(text, words, templates) for templates in template_sets] for text, words in queries]
        prompts = list(dict.fromkeys(p for sets in filled for groups in sets for group in groups for p in group))
        vectors = dict(zip(prompts, self.encode(prompts), strict=True))
        found = [
            self._means(words, sets, template_sets, vectors) for (_, words), sets in zip(queries, filled, strict=True)
        ]
        return np.stack(found) if found else np.zeros((0, len(template_sets), self.dim), np.float32)

    def _means(
        self,
        words: Sequence[str],
        sets: Sequence[Sequence[Sequence[str]]],
        template_sets: Sequence[Sequence[str]],
        vectors: Mapping[str, FloatArray],
    ) -> FloatArray:
        """Return one query's vectors (n_sets, dim). sets: groups of prompts of each set. vectors: of each prompt."""
        means = np.stack(
            [np.mean([np.mean([vectors[p] for p in g], axis=0) for g in groups], axis=0) for groups in sets]
        )
        for row, templates in enumerate(template_sets):
            if COLOUR in templates and self._axes is not None:
                if self._centre is not None:
                    centred = means[row] - self._centre
                    means[row] = centred / np.linalg.norm(centred)
                # One more template in the mean; of length 0 if no colour is named.
                means[row] -= means[row] @ self._axes.T @ self._axes
                means[row] += colour_vector(colours_named(words), self._axes) / len(sets[row])
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)

    def _padded(self, tokens: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], FloatArray]:
        """Return ids and mask, both (n, length); the mask is 1 at tokens and 0 at padding."""
        length = self._length or max(1, *(len(t) for t in tokens))
        ids = np.full((len(tokens), length), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(tokens), length), dtype=np.float32)
        for row, text in enumerate(tokens):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1.0
        return ids, mask


def checked(vectors: FloatArray, model: str) -> FloatArray:
    """Return a model's output. Raises ModelError if a number is not finite."""
    if not np.isfinite(vectors).all():
        raise ModelError(f"the model {model} gives vectors that are no numbers, as damaged weights do; {_REMEDY}")
    return vectors


def readable(text: str) -> str:
    """Return the encoded part of a text: MAX_CHARACTERS, normalised, without lone surrogates of file names."""
    return readable_form(text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8"))[:MAX_CHARACTERS]


def open_session(folder: Path, *, threads: int, prepack: bool = False) -> ort.InferenceSession:
    """Return an ONNX Runtime session on folder/model.onnx, see `open_graph`."""
    return open_graph(folder / "model.onnx", threads=threads, prepack=prepack)


def open_graph(path: Path, *, threads: int, prepack: bool = False) -> ort.InferenceSession:
    """Return an ONNX Runtime session on a graph. Raises ModelError if it cannot be opened.

    prepack: optimise graph and weights for the processor's kernels, worthwhile from about a hundred runs on:
    EfficientNet's convolutions run 3 times as fast (measured: 10 images per processor second without, 31 with). Without
    it the weights stay memory-mapped, and opening takes 20 ms instead of 150. Products of 4 bits need it: else each run
    unpacks all weights first (74 ms for 8 prompts of 7 tokens, 32 with; opening 8 and 25 ms of processor time).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if prepack else level.ORT_DISABLE_ALL
    # Threads that spin while waiting take processor time from the decoder.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (RuntimeError, ValueError, *_ORT_ERRORS) as exc:
        if shortage := lack(exc):
            raise ModelError(f"{path}: the model cannot be opened: {shortage}") from exc
        raise ModelError(f"{path}: the model cannot be opened; {_REMEDY}") from exc


def read_meta(folder: Path) -> dict[str, Any]:
    """Return a model folder's meta.json. Raises ModelError if it is missing, damaged or of another version.

    Raises LibraryError if this user may not read it, which is no damage; so does `check_files`.
    """
    try:
        meta = json.loads(read_file(folder / "meta.json"))
    except PermissionError as exc:
        raise unreadable(folder / "meta.json") from exc
    except FileNotFoundError as exc:
        raise ModelError(f"{folder}: there is no model in this folder; {_REMEDY}") from exc
    except (OSError, ValueError) as exc:
        raise ModelError(f"{folder}: the model's meta.json cannot be read; {_REMEDY}") from exc
    if (
        not isinstance(meta, dict)
        or meta.get("format") not in (META_FORMAT, FOUR_BIT_FORMAT)
        or not isinstance(meta.get("files"), dict)
    ):
        raise ModelError(f"{folder}: the model was written by another version of vfindex; {_REMEDY}")
    return meta


def check_files(folder: Path, meta: Mapping[str, Any], *, weights: bool = True) -> None:
    """Raise ModelError unless every file of the model is there with its length and sha256.

    weights: hash the weights too (0.1 s per 100 MB); their length is always checked.
    """
    for name, known in meta["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError as exc:
            raise ModelError(f"{path}: this file of the model is missing; {_REMEDY}") from exc
        if not is_allowed(path, os.R_OK):
            raise unreadable(path)
        if size != known["bytes"] or ((weights or name not in _WEIGHTS) and file_sha256(path) != known["sha256"]):
            raise ModelError(f"{path}: this file of the model is damaged; {_REMEDY}")


def write_meta(folder: Path, **facts: Any) -> None:
    """Write meta.json: the facts given (`model`, `dimensions`, ...), and length and sha256 of every file there."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != "meta.json"
    }
    four_bit = WORDS in files
    meta = {"format": FOUR_BIT_FORMAT if four_bit else META_FORMAT, **facts, "files": files}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def file_sha256(path: Path) -> str:
    """Return a file's sha256, in hexadecimal. Raises ModelError if it cannot be read."""
    try:
        with open(path, "rb", opener=regular) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror}); {_REMEDY}") from exc


def _fill(text: str, words: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Return each template's prompts; templates without any are dropped. Raises ValueError if none is left."""
    usual = [t for t in templates if t != COLOUR]
    filled = [[t.replace(WORD, w) for w in words] if WORD in t else [t.replace(QUERY, text)] for t in usual]
    groups = [group for group in filled if group]
    if not groups:
        raise ValueError("a query needs a template to fill")
    return groups


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield row numbers, texts of similar length together, at most BATCH_TOKENS per batch."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and lengths[row] * (len(rows) + 1) > BATCH_TOKENS:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
