"""The joint vector: one vector a clip, in which every modality has its slice, its centre and its scale.

    joint(clip)  = [ s_m * (e_m - mu_m) ]   zeros where the clip has no modality m
    joint(query) = [ w_m * (t_m - nu_m) ]
    score        = <joint(query), joint(clip)>

so that one inner product is exactly a weighted late fusion of the modalities' centred similarities, and a modality that
a clip lacks counts 0, the score of an unrelated clip. The writer and the readers share this contract and nothing else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vfindex.storage.errors import DimensionError, LibraryDamaged
from vfindex.storage.records import MODALITIES, FloatArray, Modality

# How many clips the shipped prior is worth: a library of 200 clips trusts its own mean as much as the prior's.
PRIOR_CLIPS = 200
# A library's own spread may move a modality's scale by this factor from the prior's, no further.
MAX_SCALE_RATIO = 2.0
_MIN_SPREAD = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class ModalityPrior:
    """What a preset knows of a modality before it has seen a library.

    mean: mu0 (dim,), the mean embedding of material in general. query_mean: nu (dim,), that of background queries.
    spread: standard deviation of <t - nu, e - mu> over background queries t and unrelated material e.
    background: (n_queries, dim) the background queries' embeddings. weight: w_m when the user names none.
    """

    mean: FloatArray
    query_mean: FloatArray
    spread: float
    background: FloatArray
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class ModalitySpec:
    """One modality's slice of the joint vector: mu (dim,), nu (dim,), the scale s and the default weight w."""

    mean: FloatArray
    query_mean: FloatArray
    scale: float
    weight: float

    @property
    def dim(self) -> int:
        return len(self.mean)

    def centre(self, vectors: FloatArray) -> FloatArray:
        """Return s * (e - mu) for rows e (n, dim)."""
        return np.asarray(self.scale * (vectors - self.mean), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class JointSpec:
    """The slices of the joint vector, in the order of `MODALITIES`."""

    parts: Mapping[Modality, ModalitySpec]

    @property
    def order(self) -> tuple[Modality, ...]:
        return tuple(m for m in MODALITIES if m in self.parts)

    @property
    def dim(self) -> int:
        return sum(part.dim for part in self.parts.values())

    def slices(self) -> dict[Modality, slice]:
        """Return where each modality stands in the joint vector."""
        result: dict[Modality, slice] = {}
        start = 0
        for modality in self.order:
            stop = start + self.parts[modality].dim
            result[modality] = slice(start, stop)
            start = stop
        return result

    def with_weights(self, weights: Mapping[Modality, float]) -> JointSpec:
        """Return the same spec with the weights named replaced."""
        parts = {m: replace(part, weight=weights.get(m, part.weight)) for m, part in self.parts.items()}
        return JointSpec(parts)

    def to_json(self) -> str:
        """Return the spec as text that `from_json` reads back exactly."""
        parts = {
            m: {"mean": _encode(p.mean), "query_mean": _encode(p.query_mean), "scale": p.scale, "weight": p.weight}
            for m, p in self.parts.items()
        }
        return json.dumps(parts)

    @classmethod
    def from_json(cls, text: str) -> JointSpec:
        """Return the spec of `to_json`'s text. Raises LibraryDamaged if it is something else."""
        try:
            data: dict[Modality, dict[str, Any]] = json.loads(text)
            return cls(
                {
                    m: ModalitySpec(_decode(p["mean"]), _decode(p["query_mean"]), float(p["scale"]), float(p["weight"]))
                    for m, p in data.items()
                }
            )
        except (KeyError, ValueError, TypeError, AttributeError) as exc:
            raise LibraryDamaged("the description of the joint vectors is damaged; run: vfindex verify") from exc


def fuse(embeddings: Mapping[Modality, FloatArray], spec: JointSpec) -> FloatArray:
    """Return one joint vector per clip, the modalities' slices in `spec.order`.

    embeddings: modality -> (n_clips, dim) float32, rows of length 1; a zero row means that the clip has none.
    Returns (n_clips, spec.dim) float32. Raises DimensionError if the modalities disagree on n_clips or with the spec.
    """
    counts = {len(rows) for rows in embeddings.values()}
    if len(counts) != 1:
        raise DimensionError(f"the modalities hold different numbers of clips: {sorted(counts)}")
    joint = np.zeros((counts.pop(), spec.dim), dtype=np.float32)
    for modality, where in spec.slices().items():
        rows = embeddings.get(modality)
        if rows is None:
            continue
        part = spec.parts[modality]
        if rows.shape[1] != part.dim:
            raise DimensionError(f"{modality} vectors have {rows.shape[1]} dimensions, the library's have {part.dim}")
        present = np.any(rows, axis=1)
        joint[present, where] = part.centre(rows[present])
    return joint


def fuse_query(embeddings: Mapping[Modality, FloatArray], spec: JointSpec) -> FloatArray:
    """Return the joint vector (spec.dim,) of a query; embeddings: modality -> (dim,). Raises DimensionError."""
    joint = np.zeros(spec.dim, dtype=np.float32)
    for modality, where in spec.slices().items():
        part = spec.parts[modality]
        vector = embeddings.get(modality)
        if vector is None:
            continue
        if vector.shape != (part.dim,):
            raise DimensionError(f"the query's {modality} vector has shape {vector.shape}, not ({part.dim},)")
        joint[where] = part.weight * (vector - part.query_mean)
    return joint


def estimate_spec(
    priors: Mapping[Modality, ModalityPrior], batches: Iterable[Mapping[Modality, FloatArray]]
) -> JointSpec:
    """Return the JointSpec of a library, its statistics shrunk towards the prior's.

    batches: modality -> (n, dim) float32, zero rows where absent; read once. mu = (n * mean + k * mu0) / (n + k) and
    the variance of unrelated scores likewise, with k = PRIOR_CLIPS: a conjugate prior worth k observations, so that a
    library of one clip (whose own e - mean would be 0) still ranks. s = 1 / spread, within MAX_SCALE_RATIO of the
    prior's.
    """
    stats = {m: _Moments(prior) for m, prior in priors.items()}
    for batch in batches:
        for modality, rows in batch.items():
            stats[modality].add(rows)
    return JointSpec({m: s.spec() for m, s in stats.items()})


class _Moments:
    """Running mean, and second moment of background scores, of one modality (float64 sums)."""

    def __init__(self, prior: ModalityPrior) -> None:
        self.prior = prior
        self.queries = (prior.background - prior.query_mean).astype(np.float64)  # (n_queries, dim)
        self.n = 0
        self.total = np.zeros(len(prior.mean))
        self.score_total = np.zeros(len(self.queries))
        self.score_squares = np.zeros(len(self.queries))

    def add(self, rows: FloatArray) -> None:
        present = rows[np.any(rows, axis=1)].astype(np.float64)
        scores = present @ self.queries.T  # (n, n_queries)
        self.n += len(present)
        self.total += present.sum(axis=0)
        self.score_total += scores.sum(axis=0)
        self.score_squares += (scores**2).sum(axis=0)

    def spec(self) -> ModalitySpec:
        prior, k = self.prior, PRIOR_CLIPS
        mean = (self.total + k * prior.mean) / (self.n + k)
        variance = 0.0
        if self.n and len(self.queries):
            # Mean over queries of E[(<t, e> - <t, mu>)^2], from the sums alone.
            offset = self.queries @ mean
            squares = self.score_squares - 2 * offset * self.score_total + self.n * offset**2
            variance = float(np.mean(squares)) / self.n
        spread = np.sqrt((self.n * variance + k * prior.spread**2) / (self.n + k))
        spread = np.clip(spread, prior.spread / MAX_SCALE_RATIO, prior.spread * MAX_SCALE_RATIO)
        return ModalitySpec(
            mean=mean.astype(np.float32),
            query_mean=np.asarray(prior.query_mean, dtype=np.float32),
            scale=1.0 / max(float(spread), _MIN_SPREAD),
            weight=prior.weight,
        )


def _encode(vector: FloatArray) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _decode(text: str) -> FloatArray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
