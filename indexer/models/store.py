"""Models on disk: plain folders under <cache>/models/<slug>/, or anywhere as `local-dir:PATH`.

A manifest lists size, modification time and sha256 of every file. A pull writes it last; a folder that was filled by
hand gets one at its first use. Nothing here reaches the network or imports anything heavy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar, get_args

from vfindex.indexer.models.catalog import CARD_KINDS, CARDS, LOCAL, OPENAI, OPENAI_WHISPER, Card, Layout, find_card
from vfindex.indexer.models.integrity import find_damage
from vfindex.indexer.models.packages import are_here, replacing
from vfindex.indexer.models.presets import FORMER_SPEECH, LITE_SPEECH, SPARE_SPEECH
from vfindex.storage.errors import ModelError, UsageError
from vfindex.storage.files.regular import file_sha256, read_file
from vfindex.storage.modalities import ModelKind

MANIFEST = "vfindex.json"
_FORMAT = 1
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
Document = TypeVar("Document", dict[str, Any], list[Any])


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on disk.

    weights: the file of weights (its index, if the weights are sharded). sha256: over the names and hashes of all files
    that determine the vectors: weights, configuration, tokenizer.
    """

    reference: str
    folder: Path
    weights: Path
    sha256: str

    @property
    def name(self) -> str:
        """Return the reference without its folders and owner, safe as a file name."""
        return re.sub(r"[^\w.]+", "-", self.reference.rstrip("/").rpartition("/")[2]).strip("-.") or "model"

    @property
    def identity(self) -> str:
        """Return what a library records to tell this model from others; its place on disk does not count."""
        name = self.folder.name if self.reference.startswith(LOCAL) else self.reference
        return f"{name} {self.sha256[:16]}"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file's size, modification time and hash, from when it was last hashed."""

    bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a model.

    pulled: downloaded by vfindex, so a changed file is damage; files put there by hand may be replaced at will.
    repository, revision: the source of a pulled model.
    """

    kind: ModelKind
    reference: str
    pulled: bool
    files: Mapping[str, FileFacts]
    repository: str = ""
    revision: str | None = None


def locate(kind: ModelKind, reference: str, cache: Path) -> LocalModel:
    """Return a model's folder and hash; only files whose size or time differ from the manifest are hashed again.

    Raises UsageError for an unknown name, ModelError if the model is absent, incomplete or changed since its pull.
    """
    card = find_card(kind, reference)
    folder = folder_of(card, cache)
    names = model_files(card, folder)
    recorded = read_manifest(card, cache)
    if recorded is None or not recorded.pulled:
        manifest = _manual_manifest(card, folder, names, recorded)
    else:
        manifest = _refreshed_manifest(card, folder, recorded)
    if manifest != recorded:
        _remember(manifest_path(card, cache), manifest)
    # Somebody may have added a file to a pulled model; it changes the vectors too.
    facts = {name: manifest.files.get(name) or _facts(card, folder / name, None) for name in sorted(names)}
    listed = "".join(f"{name} {fact.sha256}\n" for name, fact in facts.items())
    return LocalModel(reference, folder, folder / names[0], hashlib.sha256(listed.encode()).hexdigest())


def is_present(card: Card, cache: Path) -> bool:
    """Return whether a model is on this machine, in packages or as a folder, by the names and sizes of its files."""
    if (card.package or card.packaged) and are_here(card.pinned_files, cache):
        return True
    if card.package:
        return False
    folder, manifest = folder_of(card, cache), read_manifest(card, cache)
    try:
        model_files(card, folder)
        files = manifest.files if manifest is not None and manifest.pulled else {}
        return all((folder / name).stat().st_size == facts.bytes for name, facts in files.items())
    except (ModelError, OSError):
        return False


def are_present(references: Mapping[ModelKind, str], cache: Path) -> bool:
    """Return whether all models that have cards are on this machine. Raises UsageError for an unknown name."""
    carded = ((kind, reference) for kind, reference in references.items() if kind in CARD_KINDS)
    return all(is_present(find_card(kind, reference), cache) for kind, reference in carded)


@dataclass(frozen=True, slots=True)
class Recogniser:
    """The speech model of a run. usable: whether speech can be recognised. note: a sentence if it is a substitute."""

    reference: str
    usable: bool = True
    note: str = ""


def find_recogniser(reference: str, cache: Path) -> Recogniser:
    """Return the speech model for new videos of a library that names `reference`.

    The default of `lite` has a substitute where its weights are missing. Of other models `locate` says what is missing.
    """
    if reference not in (LITE_SPEECH, FORMER_SPEECH):
        return Recogniser(reference)
    remedy = "to add them: pip install 'vfindex[lite]', or: vfindex models add DIR"
    if is_present(find_card("speech", LITE_SPEECH), cache):
        found, note = Recogniser(LITE_SPEECH), ""
    elif is_present(find_card("speech", SPARE_SPEECH), cache):
        found = Recogniser(SPARE_SPEECH)
        note = f"the weights of {LITE_SPEECH} are missing, so speech is recognised in English only, by {SPARE_SPEECH}; "
    else:
        found = Recogniser(LITE_SPEECH, usable=False)
        note = "the weights of Whisper are missing, so no speech is recognised and only subtitles are read; "
    note = note and note + remedy
    if reference == FORMER_SPEECH and not note:
        note = (
            f"new videos are recognised by {LITE_SPEECH}, as PocketSphinx is no longer part of vfindex; to recognise "
            f"the others again: vfindex upgrade --speech {LITE_SPEECH}"
        )
    return replace(found, note=note)


def check(kind: ModelKind, reference: str, cache: Path) -> LocalModel:
    """Hash every file of a model again and return the model. Raises as `locate` does."""
    card = find_card(kind, reference)
    folder, recorded = folder_of(card, cache), read_manifest(card, cache)
    for name, facts in (recorded.files if recorded else {}).items():
        path = folder / name
        if _is_unchanged(path, facts) and _sha256(card, path) != facts.sha256:
            raise ModelError(f"{path} is damaged: its content changed, its size and time did not; {_remedy(card)}")
    return locate(kind, reference, cache)


def known_models(cache: Path) -> list[Card]:
    """Return all cards of the catalog, then those of other models with a manifest in the cache."""
    cards = list(CARDS)
    for path in sorted((cache / "models").glob(f"*/{MANIFEST}")):
        manifest = _read(path)
        if manifest is not None:
            try:
                card = find_card(manifest.kind, manifest.reference)
            except UsageError:
                continue  # written by another version of vfindex
            if card not in cards and card.slug == path.parent.name:
                cards.append(card)
    return cards


def folder_of(card: Card, cache: Path) -> Path:
    """Return a model's folder, which need not exist. Raises ModelError for an embedded model, which has none."""
    if card.package:
        raise ModelError(f"the model {card.reference} comes inside the package {card.package}; it has no folder")
    if card.reference.startswith(LOCAL):
        return Path(card.reference.removeprefix(LOCAL)).expanduser().absolute()
    return cache / "models" / card.slug


def manifest_path(card: Card, cache: Path) -> Path:
    """Return the path of a model's manifest; that of a `local-dir:` model is in the cache, not in the user's folder."""
    folder = folder_of(card, cache)
    if not card.reference.startswith(LOCAL):
        return folder / MANIFEST
    return cache / "models" / LOCAL.rstrip(":") / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


def read_manifest(card: Card, cache: Path) -> Manifest | None:
    """Return a model's manifest, None if it is absent or unreadable; the files are then hashed again."""
    return _read(manifest_path(card, cache))


def _read(path: Path) -> Manifest | None:
    try:
        document: dict[str, Any] = json.loads(read_file(path))
        files = {name: FileFacts(**facts) for name, facts in document["files"].items()}
        rest = {name: document[name] for name in ("kind", "reference", "pulled", "repository", "revision")}
        if document["format"] != _FORMAT or rest["kind"] not in get_args(ModelKind):
            return None
        if any(Path(name).is_absolute() or ".." in name for name in files):
            return None
        return Manifest(files=files, **rest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remember(path: Path, manifest: Manifest) -> None:
    """Write a manifest, except where the cache may only be read: its files are hashed at each use."""
    try:
        write_manifest(path, manifest)
    except ModelError as exc:
        if not isinstance(exc.__cause__, OSError) or exc.__cause__.errno not in _READ_ONLY:
            raise


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest atomically. Raises ModelError."""
    text = json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=1)
    with replacing(path) as written:
        written.write_text(text, encoding="utf-8")


def model_files(card: Card, folder: Path) -> list[str]:
    """Return the names of all files that determine a model's vectors, the weights first.

    Raises ModelError if one is missing.
    """
    present = _files(card, folder)
    layout = _layout(card, present)
    if not present:
        raise ModelError(_absent(card, folder))
    weights = _weights(card, layout, folder, present)
    names = dict.fromkeys([weights, *layout.select(present)])
    for pattern in (*layout.needed, *_configured_files(card, folder, weights)):
        matches = [name for name in present if fnmatch(name, pattern)]
        if not matches:
            raise ModelError(f"{folder}: {pattern} is missing; {_remedy(card)}")
        names |= dict.fromkeys(matches)
    return list(names)


def _files(card: Card, folder: Path) -> list[str]:
    """Return the names of the files in a folder and its direct subfolders; no model nests deeper."""
    try:
        paths = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file()]
    except OSError as exc:
        raise ModelError(f"{folder}: cannot be read ({exc.strerror}); {_remedy(card)}") from exc
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _layout(card: Card, present: list[str]) -> Layout:
    """Return the layout; a `local-dir:` of speech may hold a model of either back end."""
    local_speech = card.kind == "speech" and card.reference.startswith(LOCAL)
    return OPENAI if local_speech and any(fnmatch(name, "*.pt") for name in present) else card.layout


def _weights(card: Card, layout: Layout, folder: Path, present: list[str]) -> str:
    for pattern in layout.weights:
        for name in present:
            if fnmatch(name, pattern) and "/" not in name:
                return name
    pickles = [name for name in present if name.endswith((".bin", ".pt", ".pth")) and "/" not in name]
    if pickles and layout.weights[0].endswith(".safetensors"):
        raise ModelError(
            f"{folder / pickles[0]} is a pickle, which vfindex does not open, as the publisher offers safetensors; "
            f"add {layout.weights[0]} from {card.repository or 'the same model'}"
        )
    raise ModelError(f"{folder}: {layout.weights[0]} is missing; {_remedy(card)}")


def _configured_files(card: Card, folder: Path, weights: str) -> list[str]:
    """Return the files that the model's configuration names. Raises ModelError if it cannot be read."""
    if "open_clip_config.json" in card.layout.needed:
        config = _document(card, folder / "open_clip_config.json", {})
        model = config.get("model_cfg", config)
        text = model.get("text_cfg") if isinstance(model, dict) else None
        return ["tokenizer.json"] if isinstance(text, dict) and text.get("hf_tokenizer_name") else []
    if "modules.json" not in card.layout.needed:
        return []
    names = []
    for module in _document(card, folder / "modules.json", []):
        kind, path = (module.get(key, "") if isinstance(module, dict) else "" for key in ("type", "path"))
        if path and not kind.endswith(".Normalize"):
            names.append(f"{path}/config.json")
        if kind.endswith(".Dense"):
            names.append(f"{path}/*model.*")
    if weights.endswith(".index.json"):
        shards = _document(card, folder / weights, {}).get("weight_map", {})
        names += sorted({str(shard) for shard in shards.values()})
    return names


def _document(card: Card, path: Path, empty: Document) -> Document:
    """Return a JSON file, `empty` if it is missing: `model_files` reports missing files. Raises ModelError."""
    try:
        document = json.loads(read_file(path))
    except FileNotFoundError:
        return empty
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path}: cannot be read as JSON; {_remedy(card)}") from exc
    if not isinstance(document, type(empty)):
        raise ModelError(f"{path}: unexpected content; {_remedy(card)}")
    return document


def _manual_manifest(card: Card, folder: Path, names: list[str], recorded: Manifest | None) -> Manifest:
    """Return the manifest of a folder that was filled by hand; new files are hashed. Raises ModelError."""
    known = recorded.files if recorded else {}
    files = {name: _facts(card, folder / name, known.get(name)) for name in names}
    for name, facts in files.items():
        if name in card.sha256 and facts.sha256 != card.sha256[name]:
            raise ModelError(f"{folder / name}: its sha256 is not the one that the publisher names; {_remedy(card)}")
    return Manifest(card.kind, card.reference, False, files)


def _refreshed_manifest(card: Card, folder: Path, recorded: Manifest) -> Manifest:
    """Return the manifest of a pulled model with current times. Raises ModelError if any content changed."""
    files = {}
    for name, facts in recorded.files.items():
        try:
            size_bytes = (folder / name).stat().st_size
        except OSError as exc:
            raise ModelError(f"{folder / name} is missing; {_remedy(card)}") from exc
        if size_bytes != facts.bytes:
            raise ModelError(
                f"{folder / name} has {size_bytes:,} bytes where {facts.bytes:,} were pulled; {_remedy(card)}"
            )
        files[name] = _facts(card, folder / name, facts)
        if files[name].sha256 != facts.sha256:
            raise ModelError(f"{folder / name} is not the file that was pulled: its sha256 differs; {_remedy(card)}")
    return replace(recorded, files=files)


def _facts(card: Card, path: Path, known: FileFacts | None) -> FileFacts:
    """Return a file's facts, the known ones if size and time are the same. Raises ModelError if it is damaged."""
    if known is not None and _is_unchanged(path, known):
        return known
    try:
        status, damage = path.stat(), find_damage(path)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror}); {_remedy(card)}") from exc
    if damage is not None:
        raise ModelError(f"{path} {damage}; {_remedy(card)}")
    return FileFacts(status.st_size, status.st_mtime_ns, _sha256(card, path))


def _is_unchanged(path: Path, facts: FileFacts) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (facts.bytes, facts.mtime_ns)


def _sha256(card: Card, path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror}); {_remedy(card)}") from exc


def _absent(card: Card, folder: Path) -> str:
    if card.reference.startswith(LOCAL):
        return f"{folder}: no such folder, or it is empty; name one that holds a {card.kind} model"
    if card.packaged:
        return (
            f"the model {card.reference} is not on this machine; run: pip install 'vfindex[lite]', or: vfindex models "
            f"pull {card.reference}, or, with its files in a folder: vfindex models add FOLDER"
        )
    return (
        f"the model {card.reference} is not on this machine; run: vfindex models pull {card.reference}, or put its "
        f"files into {folder}, or use --preset lite, which needs none"
    )


def _remedy(card: Card) -> str:
    if card.reference.startswith(LOCAL):
        return "repair it, or name another folder"
    if card.reference.startswith(OPENAI_WHISPER):
        return f"run: vfindex models pull {card.reference}"
    return f"run: vfindex models pull {card.reference}, or put the file there from {card.repository or 'the hub'}"
