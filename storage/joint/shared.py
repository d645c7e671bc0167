"""A JointSpec that libraries of equal setups share, so that their scores can be compared; and its file.

Setups are equal if clips and queries have the same embeddings in both and are scored alike: the same models and prompts
of every modality, the same share of the best frame, and the same score of matched words. Sampling, the speech model and
the preset's name may differ: they decide what is extracted, not what its embedding means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vfindex.storage.errors import UsageError
from vfindex.storage.joint.fusion import Fusion, Heads
from vfindex.storage.joint.vector import JointSpec, ModalityPrior, ModalitySpec, check_fusion
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FUSIONS, FloatArray, Setup

_FORMAT, _VERSION = "vfindex joint spec", 1
# The largest file that is read. That of four modalities of 4,096 dimensions with heads of rank 128 has 12 MB.
MAX_FILE_BYTES = 32 * 1024 * 1024
# Bounds of a plausible spec. A mean of unit vectors is no longer than 1; `estimate_spec` has a spread of 1e-4 at least,
# and unit vectors have one of 2 at most.
_MAX_LENGTH, _LEAST_SCALE, _MAX_SCALE, _MAX_WEIGHT = 1.01, 0.1, 1e4, 1e3
_MAX_CLIPS = 2**53
# Characters of a hash that a person compares.
_SHORT = 12


class SpecFault(Exception):
    """Why a spec cannot be used, as a clause about it."""


@dataclass(frozen=True, slots=True)
class Comparable:
    """What must be equal in two libraries for their scores to be comparable.

    models, templates: by modality, see `Setup`. frame_weight, word_weight, imputed_share: of `Setup`.
    """

    models: Mapping[ModalityName, str]
    templates: Mapping[ModalityName, tuple[str, ...]]
    frame_weight: float
    word_weight: float
    imputed_share: float = 0.0

    @classmethod
    def of(cls, setup: Setup) -> Comparable:
        return cls(
            dict(setup.models),
            {m: model.templates for m, model in setup.query.items()},
            setup.frame_weight,
            setup.word_weight,
            setup.imputed_share,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads back; without an imputed share of 0, which hashes from before it lack."""
        imputed = {"imputed_share": self.imputed_share} if self.imputed_share else {}
        return {
            "models": dict(self.models),
            "templates": {m: list(each) for m, each in self.templates.items()},
            "frame_weight": self.frame_weight,
            "word_weight": self.word_weight,
            **imputed,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparable:
        """Return the record of `to_dict`. Raises KeyError, TypeError, ValueError or AttributeError."""
        return cls(
            {m: _text(model) for m, model in data["models"].items()},
            {m: tuple(map(_text, each)) for m, each in data["templates"].items()},
            _number(data["frame_weight"]),
            _number(data["word_weight"]),
            _number(data.get("imputed_share", 0.0)),
        )

    def difference(self, other: Comparable) -> str:
        """Return the first difference in words, this one's value first; "" if there is none."""
        if self.models.keys() != other.models.keys():
            return f"modalities {_listed(self.models)}, not {_listed(other.models)}"
        for modality, model in self.models.items():
            if model != other.models[modality]:
                return f"{modality} by {_shown(model)}, not {_shown(other.models[modality])}"
        if self.templates != other.templates:
            return "other prompts of queries"
        for name in ("frame_weight", "word_weight", "imputed_share"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(self, name):g}, not {getattr(other, name):g}"
        return ""


@dataclass(frozen=True)
class SharedSpec:
    """A JointSpec, and the setup whose embeddings it is for. clips: how many it was estimated from."""

    setup: Comparable
    spec: JointSpec
    clips: int

    @cached_property
    def hash(self) -> str:
        """Hex digits that two specs share only if all scores are equal."""
        return spec_hash(self.setup, self.spec)

    @property
    def fusion(self) -> Fusion:
        """The fusion of a library that uses this spec."""
        weights = {m: part.weight for m, part in self.spec.parts.items()}
        return Fusion(self.spec.fusion, weights, self.spec.heads)

    def to_json(self) -> str:
        """Return the text of a spec file."""
        head = {"format": _FORMAT, "version": _VERSION, "hash": self.hash, "clips": self.clips}
        return json.dumps(head | {"setup": self.setup.to_dict(), "spec": json.loads(self.spec.to_json())}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> SharedSpec:
        """Return the spec of a file's text, of which nothing is trusted. Raises SpecFault."""
        try:
            return cls._parsed(json.loads(text))
        except json.JSONDecodeError as exc:
            raise SpecFault("it is no spec file, or was cut short") from exc
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as exc:
            raise SpecFault("it is no spec file, or was changed") from exc

    @classmethod
    def _parsed(cls, data: Mapping[str, Any]) -> SharedSpec:
        if data["format"] != _FORMAT:
            raise SpecFault("it is no spec file")
        if data["version"] != _VERSION:
            raise SpecFault("it was written by another version of vfindex")
        clips = data["clips"]
        if type(clips) is not int or not 0 <= clips <= _MAX_CLIPS:
            raise SpecFault("its number of clips is none")
        shared = cls(Comparable.from_dict(data["setup"]), _spec(data["spec"]), clips)
        wrong = next(_faults(shared.spec), None)
        if wrong is not None:
            raise SpecFault(wrong)
        if shared.setup.models.keys() != shared.spec.parts.keys():
            raise SpecFault("its spec has other modalities than its setup")
        if shared.hash != data["hash"]:
            raise SpecFault("it was changed after it was written")
        return shared

    def check_fits(self, setup: Setup, priors: Mapping[ModalityName, ModalityPrior]) -> None:
        """Raise SpecFault if a library of this setup and these priors cannot use the spec."""
        different = self.setup.difference(Comparable.of(setup))
        if different:
            raise SpecFault(f"it is for another setup than the library's ({different})")
        for modality, prior in priors.items():
            part = self.spec.parts.get(modality)
            if part is None or part.dim != len(prior.mean):
                has = "no vectors" if part is None else f"{part.dim} dimensions"
                raise SpecFault(f"it has {has} of {modality}, and the library {len(prior.mean)} dimensions")
        try:
            check_fusion(priors, self.fusion)
        except UsageError as exc:
            raise SpecFault(f"its fusion does not fit the library ({exc})") from exc


def spec_hash(setup: Comparable, spec: JointSpec) -> str:
    """Return hex digits that two libraries share only if they give a clip the same score for every query."""
    content = json.dumps([setup.to_dict(), json.loads(spec.to_json())], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_SHORT]


def _spec(data: Mapping[str, Any]) -> JointSpec:
    """Return the spec of `JointSpec.to_json`'s document; unlike `JointSpec.from_json`, it caches no foreign text."""
    form = next((name for name in FUSIONS if name == data["fusion"]), None)
    if form is None:
        raise SpecFault("its fusion is unknown to this vfindex")
    heads = None if data["heads"] is None else Heads.from_dict(data["heads"])
    parts = {m: ModalitySpec.from_dict(part) for m, part in data["parts"].items()}
    return JointSpec(parts, form, heads)


def _faults(spec: JointSpec) -> Iterator[str]:
    """Yield what is wrong with the numbers of a spec, in words."""
    for modality, part in spec.parts.items():
        for name, vector in (("mean", part.mean), ("query mean", part.query_mean)):
            if not _is_finite(vector) or not 0 < vector.size == part.dim or np.linalg.norm(vector) > _MAX_LENGTH:
                yield f"its {name} of {modality} is no mean of unit vectors"
        if not _LEAST_SCALE <= part.scale <= _MAX_SCALE:
            yield f"its scale of {modality} is {part.scale:g}"
        if not 0 <= part.weight <= _MAX_WEIGHT:
            yield f"its weight of {modality} is {part.weight:g}"
    if not any(part.weight for part in spec.parts.values()):
        yield "it has no modality with a weight above 0"
    if (spec.heads is None) == (spec.fusion == "learned"):
        yield f"its fusion, {spec.fusion}, goes without heads" if spec.heads else "it lacks the learned heads"
    if spec.heads is not None:
        heads = [*spec.heads.clip.values(), *spec.heads.query.values()]
        if not heads or not all(map(_is_finite, heads)):
            yield "a number in its learned heads is none"


def _is_finite(values: FloatArray) -> bool:
    return bool(np.isfinite(values).all())


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise TypeError(value)
    return float(value)


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(map(_shown, names))


def _shown(text: str) -> str:
    """Return a text of a foreign file on one line, shortened."""
    return "".join(char if char.isprintable() else "?" for char in text)[:80]
