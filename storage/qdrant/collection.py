"""Collections of Qdrant: the calls that the joint index makes, and all that knows Qdrant's client.

A point is a clip: its id, its joint vector in float16, and the id of its video as payload, for filters. Vectors stay on
Qdrant's disk; what it keeps in memory are 8-bit copies of them, unless the collection before had another quantisation.
The metadata of a collection say which states of the library it holds, see `index`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import IndexUnusable, UsageError
from vfindex.storage.records import FloatArray

# How users name a place of the joint index: the library itself, or this with the URL of a server.
BUILT_IN, QDRANT = "built-in", "qdrant:"
# The environment variables with the server to trust, and with its API key: one in a command or a file would be seen.
URL_VARIABLE, KEY_VARIABLE = "QDRANT_URL", "QDRANT_API_KEY"
# Seconds after which a request of a search has failed, and one of a publication, whose server may be at work.
ASKING_S, WRITING_S = 10, 120
# Numbers in a request of vectors: some 5 MB of JSON, of the 32 MB that Qdrant takes.
_SENT_NUMBERS = 1 << 18
# Ids in a request or an answer.
_SENT_IDS = 10_000
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class State:
    """What a collection is. clips: exactly. is_busy: it still builds its own index."""

    dim: int
    clips: int
    metadata: Mapping[str, str]
    is_busy: bool


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Which points may answer: these clips, or those of these videos; None: all."""

    clips: Ids | None = None
    videos: Ids | None = None


def server_of(place: str) -> str:
    """Return the URL of the server that a place names, "" for `built-in`. Raises UsageError."""
    if place == BUILT_IN:
        return ""
    if not place.startswith(QDRANT):
        raise UsageError(f"--index takes built-in or qdrant:URL, as in qdrant:https://host:6333, not {place!r}")
    return checked_url(place.removeprefix(QDRANT))


def checked_url(text: str) -> str:
    """Return the URL of a Qdrant server without its last slash. Raises UsageError for any other."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise UsageError(f"--index takes built-in or qdrant:URL, as in qdrant:https://host:6333, not {QDRANT + text!r}")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"the URL of Qdrant must hold no key or password; set {KEY_VARIABLE} instead")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port or 6333}{parts.path.rstrip('/')}"


def connect(url: str, timeout_s: int) -> Any:
    """Return a client of the server; nothing is sent yet.

    A library may come from someone else, so the server must be on this machine or named by URL_VARIABLE, and only one
    that is named gets the key. Raises IndexUnusable, also without Qdrant's client.
    """
    host, is_named = urlsplit(url).hostname, _named_server() == url
    if not is_named and host not in _LOOPBACK:
        raise IndexUnusable(
            f"{URL_VARIABLE} does not name the Qdrant server at {url}; to use it, set {URL_VARIABLE}={url}"
        )
    key = _key() if is_named else None
    if key and url.startswith("http:") and host not in _LOOPBACK:
        raise IndexUnusable(f"{KEY_VARIABLE} would be sent to {host} unencrypted; use https, or unset it")
    try:
        from qdrant_client import QdrantClient
    except ModuleNotFoundError as exc:
        raise IndexUnusable("the client of Qdrant is not installed here; run: pip install 'vfindex[qdrant]'") from exc
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a key goes unencrypted: to this machine
        try:
            return QdrantClient(url=url, api_key=key, timeout=timeout_s, check_compatibility=False)
        except (ImportError, ValueError, OSError) as exc:  # of proxies and certificates that the environment names
            raise IndexUnusable(f"Qdrant at {url} cannot be used ({_reason(exc)})") from exc


def _named_server() -> str | None:
    """Return the server that URL_VARIABLE names, None without it. Raises IndexUnusable."""
    named = os.environ.get(URL_VARIABLE)
    try:
        return checked_url(named) if named else None
    except UsageError as exc:
        raise IndexUnusable(
            f"{URL_VARIABLE} must be the URL of Qdrant without a key, as in {URL_VARIABLE}=https://host:6333"
        ) from exc


def _key() -> str | None:
    """Return the API key, None without one. Raises IndexUnusable for one that a header cannot hold.

    Of a key read from a file, the end of the line is dropped; the client's errors would quote the whole.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise IndexUnusable(f"{KEY_VARIABLE} is no API key: it holds other characters than printable ASCII")
    return key or None


class Collection:
    """One collection. Every call raises IndexUnusable if the server refuses it or cannot be reached."""

    def __init__(self, url: str, name: str, timeout_s: int = ASKING_S) -> None:
        self.url, self.name = url, name
        self._client = connect(url, timeout_s)

    @property
    def place(self) -> str:
        """What messages call it."""
        return f"the collection {self.name} of Qdrant at {self.url}"

    # --- the collection -----------------------------------------------------------------------------------------

    def create(self, dim: int, metadata: Mapping[str, str], like: str | None = None) -> None:
        """Create it, empty. like: the collection whose quantisation and HNSW settings it takes over, if it exists."""
        from qdrant_client import models

        int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        quantization: Any = models.ScalarQuantization(scalar=int8)
        graph: Any = None
        with self._asked():
            if like is not None and self._client.collection_exists(like):
                config = self._client.get_collection(like).config
                quantization, graph = (
                    config.quantization_config,
                    models.HnswConfigDiff(**config.hnsw_config.model_dump(exclude_none=True)),
                )
            self._client.create_collection(
                self.name,
                vectors_config=models.VectorParams(
                    size=dim, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16, on_disk=True
                ),
                on_disk_payload=False,
                quantization_config=quantization,
                hnsw_config=graph,
                metadata=dict(metadata),
            )
            self._client.create_payload_index(self.name, "video", models.PayloadSchemaType.INTEGER, wait=True)

    def drop(self) -> None:
        """Delete it, if it exists."""
        with self._asked():
            if self._client.collection_exists(self.name):
                self._client.delete_collection(self.name)

    def state(self) -> State | None:
        """Return what it is; None if there is none."""
        with self._asked():
            if not self._client.collection_exists(self.name):
                return None
            found = self._client.get_collection(self.name)
            clips = self._client.count(self.name, exact=True).count
        config = found.config
        return State(int(config.params.vectors.size), clips, dict(config.metadata or {}), found.status == "yellow")

    def mark(self, metadata: Mapping[str, str]) -> None:
        """Replace these of its metadata."""
        with self._asked():
            self._client.update_collection(self.name, metadata=dict(metadata))

    # --- points -------------------------------------------------------------------------------------------------

    def put(self, ids: Ids, videos: Ids, rows: FloatArray) -> None:
        """Put clips, in the place of older ones with their ids. rows: (n, dim)."""
        from qdrant_client import models

        step = max(1, _SENT_NUMBERS // max(1, rows.shape[1]))
        for first in range(0, len(ids), step):
            part = slice(first, first + step)
            batch = models.Batch.model_construct(
                ids=ids[part].tolist(),
                vectors=rows[part].tolist(),
                payloads=[{"video": video} for video in videos[part].tolist()],
            )
            with self._asked():
                self._client.upsert(self.name, batch, wait=True)

    def drop_points(self, ids: Ids) -> None:
        """Delete clips; those that are not there are passed over."""
        from qdrant_client import models

        for part in _parts(ids):
            with self._asked():
                self._client.delete(self.name, models.PointIdsList(points=part), wait=True)

    def nearest(self, query: FloatArray, limit: int, effort: int, only: Narrowing) -> Ids:
        """Return the ids of at most `limit` near clips. query: (dim,). effort: candidates of the HNSW graph."""
        from qdrant_client import models

        must: list[Any] = []
        if only.clips is not None:
            must.append(models.HasIdCondition(has_id=only.clips.tolist()))
        if only.videos is not None:
            must.append(models.FieldCondition(key="video", match=models.MatchAny(any=only.videos.tolist())))
        exactly = models.QuantizationSearchParams(rescore=True, oversampling=2.0)
        with self._asked():
            found = self._client.query_points(
                self.name,
                query=query.tolist(),
                limit=limit,
                query_filter=models.Filter(must=must) if must else None,
                search_params=models.SearchParams(hnsw_ef=max(effort, limit), quantization=exactly),
                with_payload=False,
            )
        return np.array([point.id for point in found.points], np.int64)

    def vectors(self, ids: Ids) -> dict[int, Sequence[float]]:
        """Return clip id -> its vector, as the collection has it, of those that are there."""
        found: dict[int, Sequence[float]] = {}
        for part in _parts(ids, 256):
            with self._asked():
                points = self._client.retrieve(self.name, part, with_vectors=True, with_payload=False)
            found.update({point.id: point.vector for point in points})
        return found

    def ids(self) -> Ids:
        """Return the ids of all clips, increasing."""
        parts, start = [np.zeros(0, np.int64)], None
        while True:
            with self._asked():
                points, start = self._client.scroll(
                    self.name, limit=_SENT_IDS, offset=start, with_payload=False, with_vectors=False
                )
            parts.append(np.array([point.id for point in points], np.int64))
            if start is None:
                return np.sort(np.concatenate(parts))

    def clips_of(self, videos: Ids) -> int:
        """Return how many clips of these videos it holds."""
        from qdrant_client import models

        count = 0
        for part in _parts(videos):
            of = models.Filter(must=[models.FieldCondition(key="video", match=models.MatchAny(any=part))])
            with self._asked():
                count += self._client.count(self.name, count_filter=of, exact=True).count
        return count

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn the errors of Qdrant's client into one sentence."""
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        try:
            yield
        # AssertionError: an answer without a result. ValueError: a collection that is gone, of its local mode.
        except (ApiException, QdrantException, AssertionError, ValueError, OSError) as exc:
            raise IndexUnusable(f"{self.place} cannot be used ({_reason(exc)})") from exc


def _reason(exc: Exception) -> str:
    """Return why a request failed, in one line."""
    code = getattr(exc, "status_code", None)
    if code in (401, 403):
        return f"it refuses the key, or wants one: set {URL_VARIABLE} and {KEY_VARIABLE}"
    if code is not None:
        return f"it answers {code} {getattr(exc, 'reason_phrase', '')}".strip()
    text = str(exc).strip() or type(getattr(exc, "source", exc)).__name__
    return text.splitlines()[0][:200]


def _parts(ids: Ids, most: int = _SENT_IDS) -> Iterator[list[Any]]:
    for first in range(0, len(ids), most):
        yield ids[first : first + most].tolist()
