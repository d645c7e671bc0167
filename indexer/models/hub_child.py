"""Fetches one model, in a process that may be killed: python -m vfindex.indexer.models.hub_child, see `hub.py`.

Reads one JSON object, a line of standard input, and ends when that ends: no download outlives who asked for it. Writes
one JSON object a line to standard output:

    {"host"}                              before the first byte is asked for
    {"repository", "revision", "files"}   what will be fetched: name -> bytes
    {"file"}                              the one that is being fetched now
    {"done", "folder"}                    name -> sha256: all are there, each is what the hub says that it is
    {"error", "next"}                     in words, then the end

The only file that imports huggingface_hub. Its own downloads begin anew whenever they are started anew (2.4), so that
files are fetched here, with its request, retries and authorisation, into parts that stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not in its __all__

from vfindex.indexer.models.catalog import Layout, find_card

PART = ".part"
CHUNK_BYTES = 1 << 20
# The client writes by 10 MB, which a slow line takes minutes for: the watch would take it for silence.
WRITE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to fetch. sha256: as published; else git_sha1, git's hash of a small file; both "" where neither is."""

    name: str
    url: str
    bytes: int | None
    sha256: str = ""
    git_sha1: str = ""


def main() -> None:
    """Fetch what standard input asks for."""
    sys.excepthook = _last_words
    constants.DOWNLOAD_CHUNK_SIZE = WRITE_BYTES
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    repository, folder = request["repository"], Path(request["folder"])
    if repository.startswith(("http://", "https://")):
        _tell(host=urlsplit(repository).netloc)
        [(name, sha256)] = request["sha256"].items()
        _tell(repository=repository, revision="", files={name: None})
        _fetch([Remote(name, repository, None, sha256)], folder / sha256, {})
        return
    _tell(host=urlsplit(constants.ENDPOINT).netloc)
    repository = repository or _open_clip_repository(request["reference"])
    info = _listed(repository, request["revision"])
    remotes = _chosen(find_card(request["kind"], request["reference"]).layout, info, repository)
    _tell(repository=repository, revision=info.sha, files={remote.name: remote.bytes for remote in remotes})
    _fetch(remotes, folder / str(info.sha), build_hf_headers())


def _end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _listed(repository: str, revision: str | None) -> Any:
    """Return what the hub tells of a repository: its commit and its files."""
    try:
        return HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except GatedRepoError:
        _fail(f"{repository} is given to those alone who asked for it", "ask on its page, then set HF_TOKEN")
    except RevisionNotFoundError:
        _fail(f"{repository} has no revision {revision}", "look there for the commit that holds it now")
    except RepositoryNotFoundError:
        _fail(f"there is no repository {repository}, or it wants a login", "check the name, or set HF_TOKEN")


def _open_clip_repository(reference: str) -> str:
    """Return the repository that open_clip's own table has for NAME:TAG."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    name, _, tag = reference.partition(":")
    repository, _, file = str(get_pretrained_cfg(name, tag).get("hf_hub", "")).rpartition("/")
    if not repository:
        tags = list_pretrained_tags_by_model(name)
        known = f"its tags of {name} are {', '.join(tags)}" if tags else f"it knows no {name} at all"
        _fail(f"open_clip has no model {reference}", known)
    if file:
        _fail(f"{repository} has no open_clip_config.json", "make that file by hand, or name another model")
    return repository


def _chosen(layout: Layout, info: Any, repository: str) -> list[Remote]:
    """Return the files to fetch, small ones first: what is wrong with a model shows before its gigabytes."""
    listed = {file.rfilename: file for file in info.siblings or ()}
    names = layout.wanted(listed)
    if not set(names) & set(layout.weights):
        _fail(f"{repository} has none of {', '.join(layout.weights)}", "name another model")
    remotes = []
    for name in names:
        url, large = hf_hub_url(repository, name, revision=info.sha), listed[name].lfs
        hashes = (large.sha256, "") if large else ("", listed[name].blob_id or "")
        remotes.append(Remote(name, url, listed[name].size, *hashes))
    return sorted(remotes, key=lambda remote: remote.bytes or 0)


def _fetch(remotes: list[Remote], folder: Path, headers: Mapping[str, str]) -> None:
    """Fetch files into a folder, going on where an earlier attempt ended, and check each."""
    hashes = {}
    for remote in remotes:
        _tell(file=remote.name)
        path, part = folder / remote.name, folder / (remote.name + PART)
        sha256 = _checked(remote, path)
        if sha256 is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            sha256 = _checked(remote, part) or _complete(remote, part, headers)
            part.replace(path)
        hashes[remote.name] = sha256
    _tell(done=hashes, folder=str(folder))


def _complete(remote: Remote, part: Path, headers: Mapping[str, str]) -> str:
    """Bring a part to its full length and return its sha256."""
    there = part.stat().st_size if part.is_file() else 0
    if remote.bytes is not None and there >= remote.bytes:
        part.unlink(missing_ok=True)  # whole, and not what it should be
        there = 0
    with part.open("ab", buffering=0) as file:
        try:
            http_get(
                remote.url,
                file,
                resume_size=there,
                headers=dict(headers),
                expected_size=remote.bytes,
                displayed_filename=remote.name,
            )
        except HfHubHTTPError as exc:
            code = getattr(exc.response, "status_code", "an error")
            _fail(f"it answered {code} for {remote.name}", "try again later")
    sha256 = _checked(remote, part)
    if sha256 is None:
        part.unlink()
        _fail(f"{remote.name} arrived with another content than was announced", "try again")
    return sha256


def _checked(remote: Remote, path: Path) -> str | None:
    """Return a file's sha256, None if it is not there, or not the file that was announced."""
    if not path.is_file() or remote.bytes not in (None, path.stat().st_size):
        return None
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
            if remote.git_sha1:
                git.update(chunk)
    same = remote.sha256 in ("", sha256.hexdigest()) and remote.git_sha1 in ("", git.hexdigest())
    return sha256.hexdigest() if same else None


def _tell(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _fail(reason: str, next_step: str) -> NoReturn:
    _tell(error=reason, next=next_step)
    raise SystemExit(1)


def _last_words(kind: type[BaseException], exc: BaseException, _: TracebackType | None) -> None:
    """Tell of what nobody foresaw: no network, no name service, a certificate, a full disk."""
    lines = str(exc).strip().splitlines() or [""]
    _tell(error=f"{kind.__name__}: {lines[0]}" if lines[0] else kind.__name__, next="")


if __name__ == "__main__":
    main()
