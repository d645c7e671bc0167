"""LibraryMeta: the settings of a library as typed values. The table `meta` stores them as text, one row per key."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from vfindex.storage.db.integrity import put
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.files.permissions import has_file
from vfindex.storage.files.regular import file_sha256
from vfindex.storage.joint.codecs import pack_vector, unpack_vector
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.shared import SharedSpec, SpecFault
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.modalities import ModalityName, switches
from vfindex.storage.records import FloatArray, QueryModel, Setup

if TYPE_CHECKING:  # for writers; a search starts without
    from vfindex.storage.db.catalog import Catalog

_SETUP, _PRIORS, _FUSION, _QUERY_MODELS = "setup", "priors", "fusion", "query_models"
_SHARED_SPEC, _TEMPORAL_HEADS = "shared_spec", "temporal_heads"
# The Qdrant server that holds the joint index; the id of the library in the names of its collections; and those of its
# collections that may exist, as JSON of [URL, name]; see `collections`.
_SERVER, LIBRARY_ID, COLLECTIONS = "index_server", "library_id", "collections"
# What parsing JSON of another shape raises.
_NOT_AS_WRITTEN = (KeyError, TypeError, ValueError, AttributeError)


def no_videos(folder: Path) -> str:
    """Return the sentence about a library without videos."""
    return f"the library {folder} holds no videos yet; add some with: vfindex ingest VIDEOS"


@dataclass(frozen=True, slots=True)
class LibraryMeta:
    """The settings of a library. Each is parsed when read, so a damaged one does not affect the others.

    Every property raises LibraryDamaged for an invalid value.
    """

    source: Catalog | Snapshot

    @property
    def setup(self) -> Setup | None:
        """Models, sampling and weights; None until the first ingest has chosen them."""
        stored = self.source.get(_SETUP)
        if stored is None:
            return None
        try:
            data: dict[str, Any] = json.loads(stored)
            query = {m: QueryModel(q["folder"], tuple(q["templates"])) for m, q in data.pop("query").items()}
            known = {each.name for each in fields(Setup)}  # others are of a newer vfindex
            return Setup(query=query, **{name: value for name, value in data.items() if name in known})
        except _NOT_AS_WRITTEN as exc:
            raise _damaged("the library's setup") from exc

    def existing_setup(self) -> Setup:
        """Return the setup. Raises LibraryDamaged where there is none; `settings_backup.setup_of` says why."""
        setup = self.setup
        if setup is None:
            raise LibraryDamaged("library.db has lost the library's setup; run: vfindex repair")
        return setup

    @property
    def priors(self) -> dict[ModalityName, ModalityPrior]:
        """The statistics of each modality, from its model."""
        stored = self.source.get(_PRIORS)
        if stored is None:
            raise LibraryDamaged(
                "library.db has lost the statistics of the library's models (priors); put back the file from a backup, "
                "or run: vfindex repair"
            )
        try:
            data: dict[ModalityName, dict[str, Any]] = json.loads(stored)
            priors = {m: _prior(values) for m, values in data.items()}
        except _NOT_AS_WRITTEN as exc:
            raise _damaged("the statistics of the library's models (priors)") from exc
        if not priors:
            raise _damaged("the statistics of the library's models (priors)")
        return priors

    @property
    def fusion(self) -> Fusion:
        """The fusion of the modalities: of the shared spec, else the library's own."""
        shared = self.shared_spec
        return self.own_fusion if shared is None else shared.fusion

    @property
    def own_fusion(self) -> Fusion:
        """The fusion without a shared spec; by default `concat` with the preset's weights."""
        return Fusion.from_json(self.source.get(_FUSION))

    @property
    def shares_spec(self) -> bool:
        """Whether there is a shared spec, which is not parsed."""
        return bool(self.source.get(_SHARED_SPEC))

    @property
    def shared_spec(self) -> SharedSpec | None:
        """The JointSpec of all generations, shared with other libraries; None: each generation estimates its own."""
        stored = self.source.get(_SHARED_SPEC)
        try:
            return SharedSpec.from_json(stored) if stored else None
        except SpecFault as exc:
            raise LibraryDamaged(
                f"the shared spec of the library cannot be used: {exc}; run: vfindex spec use FILE, or for a spec of "
                "its own: vfindex spec use --own"
            ) from exc

    @property
    def index_server(self) -> str:
        """The URL of the Qdrant server that holds the joint index; "" for an index of the library's own."""
        return self.source.get(_SERVER) or ""

    @property
    def library_id(self) -> str:
        """What names the library's collections in Qdrant; "" before the first."""
        return self.source.get(LIBRARY_ID) or ""

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """The library's own collections in Qdrant, (URL, name)."""
        try:
            return tuple((str(url), str(name)) for url, name in json.loads(self.source.get(COLLECTIONS) or "[]"))
        except _NOT_AS_WRITTEN as exc:
            raise _damaged("the library's list of collections") from exc

    @property
    def left_out(self) -> frozenset[ModalityName]:
        """The modalities that runs leave out of new videos; by default none."""
        return frozenset(name for name, switch in switches().items() if self.source.get(switch.option) == "0")

    @property
    def temporal_heads(self) -> dict[str, str]:
        """Set of classes -> SHA-256 of its temporal head (`heads`)."""
        try:
            return {
                str(name): str(digest) for name, digest in json.loads(self.source.get(_TEMPORAL_HEADS) or "{}").items()
            }
        except _NOT_AS_WRITTEN as exc:
            raise _damaged("the library's list of temporal heads") from exc

    @property
    def query_models(self) -> dict[str, str] | None:
        """Query encoder -> SHA-256 of its meta.json, which holds those of its other files; None in old libraries."""
        stored = self.source.get(_QUERY_MODELS)
        try:
            return None if stored is None else {str(name): str(digest) for name, digest in json.loads(stored).items()}
        except _NOT_AS_WRITTEN as exc:
            raise _damaged("the library's list of query encoders (query_models)") from exc


def _damaged(what: str) -> LibraryDamaged:
    """Return the error of a setting that is not of the form in which it was written. what: the setting, in words."""
    return LibraryDamaged(f"library.db is damaged: {what} cannot be read; put back library.db from a backup")


def put_setup(catalog: Catalog, setup: Setup, priors: Mapping[ModalityName, ModalityPrior]) -> None:
    """Store the priors, then the setup: a library without a setup is set up again."""
    catalog.put(_PRIORS, _priors_json(priors))
    stored = asdict(setup)
    if not setup.imputed_share:
        del stored["imputed_share"]  # versions of vfindex from before it take a field that they do not know for damage
    catalog.put(_SETUP, json.dumps(stored))


def put_fusion(connection: Connection, fusion: Fusion) -> None:
    """Store the fusion inside the caller's transaction."""
    put(connection, _FUSION, fusion.to_json())


def put_shared_spec(connection: Connection, shared: SharedSpec | None) -> None:
    """Store the shared spec inside the caller's transaction; None: generations estimate their own."""
    put(connection, _SHARED_SPEC, shared.to_json() if shared else "")


def put_index_server(connection: Connection, url: str) -> None:
    """Store where the joint index is inside the caller's transaction; see `LibraryMeta.index_server`."""
    put(connection, _SERVER, url)


def put_library_id(catalog: Catalog) -> str:
    """Give the library an id, and return it."""
    id_ = secrets.token_hex(8)
    catalog.put(LIBRARY_ID, id_)
    return id_


def put_collections(connection: Connection, collections: Iterable[tuple[str, str]]) -> None:
    """Store the library's collections inside the caller's transaction."""
    put(connection, COLLECTIONS, json.dumps(list(dict.fromkeys(collections))))


def become_another(catalog: Catalog) -> None:
    """Make a copied library another one, whose publications leave the collections of the first alone."""
    with catalog.transaction() as connection:
        put(connection, LIBRARY_ID, "")
        put_collections(connection, ())


def put_switch(catalog: Catalog, modality: ModalityName, is_on: bool) -> None:
    """Store whether runs extract a modality of new videos; see `LibraryMeta.left_out`."""
    catalog.put(switches()[modality].option, str(int(is_on)))


def put_query_models(catalog: Catalog, folders: Mapping[str, Path]) -> None:
    """Store which query encoders the library has. folders: name -> folder; one without meta.json is left out.

    Raises LibraryError for a folder that this user may not read.
    """
    described = {name: folder / "meta.json" for name, folder in sorted(folders.items())}
    digests = {name: file_sha256(path) for name, path in described.items() if has_file(path)}
    catalog.put(_QUERY_MODELS, json.dumps(digests))


def put_temporal_heads(catalog: Catalog, heads: Mapping[str, str]) -> None:
    """Store which temporal heads the library has; see `LibraryMeta.temporal_heads`."""
    catalog.put(_TEMPORAL_HEADS, json.dumps(dict(sorted(heads.items()))))


def _prior(values: Mapping[str, Any]) -> ModalityPrior:
    def vector(name: str) -> FloatArray:
        return unpack_vector(bytes.fromhex(values[name]))

    mean = vector("mean")
    return ModalityPrior(
        mean=mean,
        query_mean=vector("query_mean"),
        spread=float(values["spread"]),
        background=vector("background").reshape(-1, len(mean)),
        weight=float(values["weight"]),
    )


def _priors_json(priors: Mapping[ModalityName, ModalityPrior]) -> str:
    """Return priors as JSON, their vectors as float16 in hex, as every stored vector is float16."""
    return json.dumps(
        {
            m: {
                "mean": pack_vector(p.mean).hex(),
                "query_mean": pack_vector(p.query_mean).hex(),
                "background": pack_vector(p.background.reshape(-1)).hex(),
                "spread": p.spread,
                "weight": p.weight,
            }
            for m, p in priors.items()
        }
    )
