"""The joint vector: one vector per clip, fused from the centred and scaled embeddings of its modalities.

With c_m = s_m * (e_m - mu_m), 0 if the clip has no modality m, and q_m = t_m - nu_m, 0 if the query has no modality m:

    form       joint(clip)                        joint(query)
    concat     [ c_m ]                            [ w_m * q_m ]
    mean       mean of the c_m that are there     mean of the q_m that are asked
    weighted   sum of w_m * c_m                   mean of the q_m that are asked
    learned    [ c_m ], sum of A_m * c_m          [ w_m * q_m ], sum of B_m * q_m

    score = <joint(query), joint(clip)>

`concat` is exactly a weighted late fusion of the modalities' centred similarities (weighted concatenation: Wang et al.
2023, arXiv 2312.06397), whose weights belong to the query. `mean` and `weighted` add vectors, as in one embedding space
of all modalities (Girdhar et al. 2023, arXiv 2305.05665), and need equal dimensions. `learned` adds a shared space of
all modalities, see `Heads`. In every form a missing modality counts 0, the score of an unrelated clip, and the score is
a sum over the clip's modalities. Writer and readers share only this contract.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import DimensionError, LibraryDamaged, UsageError
from vfindex.storage.joint.fusion import Fusion, Heads
from vfindex.storage.modalities import ModalityName, in_table_order
from vfindex.storage.records import FUSIONS, FloatArray, FusionName

# Weight of the prior in clips: in a library of 200 clips, its own mean and the prior's count equally.
PRIOR_CLIPS = 200
# A library's own spread changes a modality's scale from the prior's by at most this factor.
MAX_SCALE_RATIO = 2.0
_MIN_SPREAD = 1e-4
# Weight of a modality whose default weight is 0, for terms that name it: that of the images.
NAMED_WEIGHT = 1.0
# Version of a spec's JSON; the first, without a number, had only `concat`.
_SPEC_VERSION = 2


@dataclass(frozen=True, slots=True, eq=False)
class ModalityPrior:
    """A preset's statistics of a modality, independent of any library.

    mean: mu0 (dim,), the mean embedding of generic clips. query_mean: nu (dim,), the mean of background queries.
    spread: standard deviation of <t - nu, e - mu> over background queries t and unrelated clips e.
    background: (n_queries, dim) the background queries' embeddings. weight: the default of w_m.
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

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads back exactly."""
        vectors = {"mean": _encode(self.mean), "query_mean": _encode(self.query_mean)}
        return {**vectors, "scale": self.scale, "weight": self.weight}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModalitySpec:
        """Return the spec of `to_dict`. Raises KeyError, TypeError or ValueError for something else."""
        mean, query_mean = _decode(data["mean"]), _decode(data["query_mean"])
        return cls(mean, query_mean, float(data["scale"]), float(data["weight"]))

    def centre(self, vectors: FloatArray) -> FloatArray:
        """Return s * (e - mu) for rows e (n, dim)."""
        return np.asarray(self.scale * (vectors - self.mean), dtype=np.float32)

    def along(self, vectors: FloatArray, direction: FloatArray) -> FloatArray:
        """Return <s * (e - mu), direction> (n,) for rows e (n, dim), without computing the centred rows.

        By `einsum`: a product with 460,000 numbers or more, as of 600 frames of 768 dimensions, starts threads that
        wait actively, 9 ms of processor time instead of 0.15.
        """
        with np.errstate(invalid="ignore"):
            along = np.einsum("nd,d->n", vectors, direction) - self.mean @ direction
        return np.asarray(self.scale * along, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class JointSpec:
    """The parameters of joint vectors of clips and queries. heads: of `learned`."""

    parts: Mapping[ModalityName, ModalitySpec]
    fusion: FusionName = "concat"
    heads: Heads | None = None

    @property
    def order(self) -> tuple[ModalityName, ...]:
        """The modalities in the order of their slices; a newer version may have made some that the table lacks."""
        return in_table_order(self.parts)

    @property
    def adds_up(self) -> bool:
        """Whether the modalities' vectors are added, so that none has its own slice."""
        return self.fusion in ("mean", "weighted")

    @property
    def weights_are_open(self) -> bool:
        """Whether a query may set weights; else they are fixed in the clips' vectors, or learned."""
        return self.fusion == "concat"

    @property
    def dim(self) -> int:
        dims = [part.dim for part in self.parts.values()]
        if self.adds_up:
            return max(dims, default=0)
        return sum(dims) + (self.heads.rank if self.heads else 0)

    def slices(self) -> dict[ModalityName, slice]:
        """Return the slice of each modality in the joint vector, for those that have their own."""
        result: dict[ModalityName, slice] = {}
        start = 0
        for modality in () if self.adds_up else self.order:
            stop = start + self.parts[modality].dim
            result[modality] = slice(start, stop)
            start = stop
        return result

    def corners(self) -> list[FloatArray]:
        """Return the weightings that an index is tuned for, each as factors (dim,) of a joint vector.

        The default first, then each modality alone if it has a slice; the learned part is always included.
        """
        slices = self.slices()
        default = np.ones(self.dim, np.float32)
        for modality, where in slices.items():
            default[where] = self.parts[modality].weight
        result = [default]
        for alone in slices:
            factors = np.ones(self.dim, np.float32)
            for modality, where in slices.items():
                factors[where] = float(modality == alone)
            result.append(factors)
        return result

    def shares(self, clips: Sequence[Collection[ModalityName]]) -> NDArray[np.float64]:
        """Return the factor (n,) of each vector in the joint vectors of clips. clips: the modalities of each."""
        if self.fusion != "mean":
            return np.ones(len(clips))
        return 1.0 / np.maximum(1, [len(present) for present in clips])

    def alone_weight(self, modality: ModalityName) -> float:
        """Return the weight of a modality that is asked by name: its own, or NAMED_WEIGHT if it counts only then."""
        return self.parts[modality].weight or NAMED_WEIGHT

    def with_weights(self, weights: Mapping[ModalityName, float]) -> JointSpec:
        """Return the spec with these weights replaced."""
        if not weights:
            return self
        parts = {m: replace(part, weight=weights.get(m, part.weight)) for m, part in self.parts.items()}
        return replace(self, parts=parts)

    def to_json(self) -> str:
        """Return the spec as text that `from_json` reads back exactly."""
        parts = {m: part.to_dict() for m, part in self.parts.items()}
        heads = None if self.heads is None else self.heads.to_dict()
        return json.dumps({"version": _SPEC_VERSION, "fusion": self.fusion, "parts": parts, "heads": heads})

    @classmethod
    def from_json(cls, text: str) -> JointSpec:
        """Return the spec of `to_json`'s text, or of its first version. Raises LibraryDamaged for anything else."""
        try:
            return _read_spec(text)
        except (KeyError, ValueError, TypeError, AttributeError) as exc:
            raise LibraryDamaged("the description of the joint vectors is damaged; run: vfindex rebuild") from exc


@lru_cache(maxsize=4)
def _read_spec(text: str) -> JointSpec:
    """Return the spec of `to_json`'s text; cached, because every search reads it and heads are large."""
    data: dict[str, Any] = json.loads(text)
    if "version" not in data:
        data = {"fusion": "concat", "parts": data, "heads": None}
    parts: dict[ModalityName, ModalitySpec] = {m: ModalitySpec.from_dict(part) for m, part in data["parts"].items()}
    [form] = [name for name in FUSIONS if name == data["fusion"]]
    return JointSpec(parts, form, None if data["heads"] is None else Heads.from_dict(data["heads"]))


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """A query's directions in one modality: a clip's vector adds share * <own, c_m> + <shared, c_m> to its score.

    own: (dim,). shared: (dim,), None if nothing is learned.
    """

    own: FloatArray
    shared: FloatArray | None = None


def fuse(embeddings: Mapping[ModalityName, FloatArray], spec: JointSpec) -> FloatArray:
    """Return one joint vector per clip.

    embeddings: modality -> (n_clips, dim) float32, rows of length 1; a zero row means that the clip lacks the modality.
    Returns (n_clips, spec.dim) float32. Raises DimensionError if the modalities disagree on n_clips or with the spec.
    """
    counts = {len(rows) for rows in embeddings.values()}
    if len(counts) != 1:
        raise DimensionError(f"the modalities hold different numbers of clips: {sorted(counts)}")
    joint = np.zeros((counts.pop(), spec.dim), dtype=np.float32)
    slices = spec.slices()
    present_count = np.zeros((len(joint), 1), np.float32)
    for modality in spec.order:
        rows = embeddings.get(modality)
        if rows is None:
            continue
        part = spec.parts[modality]
        if rows.shape[1] != part.dim:
            raise DimensionError(f"{modality} vectors have {rows.shape[1]} dimensions, the library's have {part.dim}")
        present = np.any(rows, axis=1)
        centred = part.centre(rows[present])
        present_count += present[:, None]
        if spec.adds_up:
            joint[present] += centred if spec.fusion == "mean" else np.float32(part.weight) * centred
        else:
            joint[present, slices[modality]] = centred
        if spec.heads is not None:
            joint[present, -spec.heads.rank :] += centred @ spec.heads.clip[modality].T
    if spec.fusion == "mean":
        joint /= np.maximum(present_count, 1)
    return joint


def fuse_query(embeddings: Mapping[ModalityName, FloatArray], spec: JointSpec) -> FloatArray:
    """Return the joint vector (spec.dim,) of a query; embeddings: modality -> (dim,). Raises DimensionError."""
    joint = np.zeros(spec.dim, dtype=np.float32)
    asked = _asked(embeddings, spec)
    if spec.adds_up:
        return np.mean(list(asked.values()), axis=0, dtype=np.float32) if asked else joint
    slices = spec.slices()
    for modality, centred in asked.items():
        joint[slices[modality]] = spec.parts[modality].weight * centred
        if spec.heads is not None:
            joint[-spec.heads.rank :] += spec.heads.query[modality] @ centred
    return joint


def directions(embeddings: Mapping[ModalityName, FloatArray], spec: JointSpec) -> dict[ModalityName, Direction]:
    """Return a query's directions per modality: the parts of `fuse_query`.

    Only the modalities of the query have one. Raises DimensionError.
    """
    joint = fuse_query(embeddings, spec)
    slices = spec.slices()
    result: dict[ModalityName, Direction] = {}
    for modality in _asked(embeddings, spec):
        if spec.adds_up:
            weight = 1.0 if spec.fusion == "mean" else spec.parts[modality].weight
            result[modality] = Direction(np.float32(weight) * joint)
        else:
            heads = spec.heads
            shared = None if heads is None else heads.clip[modality].T @ joint[-heads.rank :]
            result[modality] = Direction(joint[slices[modality]], shared)
    return result


def _asked(embeddings: Mapping[ModalityName, FloatArray], spec: JointSpec) -> dict[ModalityName, FloatArray]:
    """Return the centred vectors of the query's modalities with a weight above 0."""
    centred: dict[ModalityName, FloatArray] = {}
    for modality in spec.order:
        part, vector = spec.parts[modality], embeddings.get(modality)
        if vector is None:
            continue
        if vector.shape != (part.dim,):
            raise DimensionError(f"the query's {modality} vector has shape {vector.shape}, not ({part.dim},)")
        if part.weight:
            centred[modality] = vector - part.query_mean
    return centred


def estimate_spec(
    priors: Mapping[ModalityName, ModalityPrior],
    batches: Iterable[Mapping[ModalityName, FloatArray]],
    fusion: Fusion = Fusion(),  # noqa: B008  frozen
) -> JointSpec:
    """Return the JointSpec of a library, its statistics shrunk towards the prior's.

    batches: modality -> (n, dim) float32, zero rows where absent; read once. mu = (n * mean + k * mu0) / (n + k) and
    the variance of unrelated scores likewise, with k = PRIOR_CLIPS: a conjugate prior worth k observations, so that a
    library of one clip (whose own e - mean would be 0) still ranks. s = 1 / spread, within MAX_SCALE_RATIO of the
    prior's. Raises UsageError if the fusion does not fit the modalities.
    """
    check_fusion(priors, fusion)
    spec = JointSpec({}, fusion.form, fusion.heads)
    stats = {
        m: _Moments(prior, queries)
        for (m, prior), queries in zip(priors.items(), _background(priors, spec.adds_up), strict=True)
    }
    for batch in batches:
        for modality, rows in batch.items():
            stats[modality].add(rows)
    weights = dict.fromkeys(priors, 1.0) if fusion.form == "mean" else fusion.weights
    return replace(spec, parts={m: s.spec() for m, s in stats.items()}).with_weights(weights)


def check_fusion(priors: Mapping[ModalityName, ModalityPrior], fusion: Fusion) -> None:
    """Raise UsageError if the library's modalities do not fit this fusion."""
    dims = {m: len(prior.mean) for m, prior in priors.items()}
    if fusion.form in ("mean", "weighted") and len(set(dims.values())) > 1:
        listed = ", ".join(f"{m} {dim}" for m, dim in dims.items())
        raise UsageError(
            f"{fusion.form} adds the modalities' vectors up, and this library's differ in dimensions ({listed}); "
            "take concat or learned"
        )
    if fusion.heads is not None and not fusion.heads.fit(dims):
        raise UsageError("the learned heads are made for other models than this library's; run: vfindex tune QUERIES")


def _background(priors: Mapping[ModalityName, ModalityPrior], adds_up: bool) -> list[FloatArray]:
    """Return each modality's background queries (n_queries, dim), centred, as this form applies them to its vectors."""
    own = [prior.background - prior.query_mean for prior in priors.values()]
    if adds_up and len({queries.shape for queries in own}) == 1:
        return [np.mean(own, axis=0, dtype=np.float32)] * len(own)  # the same queries for every modality
    return own


class _Moments:
    """Running mean, and second moment of background scores, of one modality (float64 sums)."""

    def __init__(self, prior: ModalityPrior, queries: FloatArray) -> None:
        """queries: (n_queries, dim), centred, as applied to this modality."""
        self.prior = prior
        self.queries = queries.astype(np.float64)
        own = prior.background - prior.query_mean
        # The prior's spread is that of its own queries; for others it grows with their length.
        self.spread = prior.spread * (_length(queries) / _length(own) if _length(own) else 1.0)
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
        spread = np.sqrt((self.n * variance + k * self.spread**2) / (self.n + k))
        spread = np.clip(spread, self.spread / MAX_SCALE_RATIO, self.spread * MAX_SCALE_RATIO)
        return ModalitySpec(
            mean=mean.astype(np.float32),
            query_mean=np.asarray(prior.query_mean, dtype=np.float32),
            scale=1.0 / max(float(spread), _MIN_SPREAD),
            weight=prior.weight,
        )


def _length(vectors: FloatArray) -> float:
    """Return the root mean square length of rows, 0 without any."""
    return float(np.sqrt(np.mean(np.sum(vectors**2, axis=1)))) if len(vectors) else 0.0


def _encode(vector: FloatArray) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _decode(text: str) -> FloatArray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
