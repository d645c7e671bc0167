"""Downloads one model, in a process that may be killed: python -m vfindex.indexer.models.hub_child, see `hub.py`.

Reads one JSON object, a line of standard input, and exits when standard input closes, so no download outlives its
parent. Writes JSON objects, a line each, to standard output:

    {"host"}                              before the first request
    {"repository", "revision", "files"}   the files to download, name -> bytes
    {"file"}                              the current file
    {"done", "folder"}                    name -> sha256 of all files, each checked against the hub's hash
    {"error", "next"}                     a reason and the next step; the last message

The only file that imports huggingface_hub. Its own download functions (2.4) cannot resume in a new process, so files
are downloaded here, with its request, retries and authorisation, into partial files that stay.
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
# The client writes 10 MB at a time; on a slow line that takes minutes, which the parent would take for a timeout.
WRITE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to download. sha256: of a large file; git_sha1: git's blob hash of a small one; "" if not published."""

    name: str
    url: str
    bytes: int | None
    sha256: str = ""
    git_sha1: str = ""


def main() -> None:
    """Download the model that standard input names."""
    sys.excepthook = _last_words
    constants.DOWNLOAD_CHUNK_SIZE = WRITE_BYTES
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    repository, folder = request["repository"], Path(request["folder"])
    if repository.startswith(("http://", "https://")):
        _send(host=urlsplit(repository).netloc)
        [(name, sha256)] = request["sha256"].items()
        _send(repository=repository, revision="", files={name: None})
        _download([Remote(name, repository, None, sha256)], folder / sha256, {})
        return
    _send(host=urlsplit(constants.ENDPOINT).netloc)
    repository = repository or _open_clip_repository(request["reference"])
    info = _model_info(repository, request["revision"])
    remotes = _remotes(find_card(request["kind"], request["reference"]).layout, info, repository)
    _send(repository=repository, revision=info.sha, files={remote.name: remote.bytes for remote in remotes})
    _download(remotes, folder / str(info.sha), build_hf_headers())


def _exit_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _model_info(repository: str, revision: str | None) -> Any:
    """Return the hub's description of a repository: commit and files."""
    try:
        return HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except GatedRepoError:
        _fail(f"{repository} is gated", "request access on its page, then set HF_TOKEN")
    except RevisionNotFoundError:
        _fail(f"{repository} has no revision {revision}", "look up its present commit on its page")
    except RepositoryNotFoundError:
        _fail(f"there is no repository {repository}, or it needs a login", "check the name, or set HF_TOKEN")


def _open_clip_repository(reference: str) -> str:
    """Return the repository of NAME:TAG in open_clip's table."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    name, _, tag = reference.partition(":")
    repository, _, file = str(get_pretrained_cfg(name, tag).get("hf_hub", "")).rpartition("/")
    if not repository:
        tags = list_pretrained_tags_by_model(name)
        known = f"its tags of {name} are {', '.join(tags)}" if tags else f"it has no architecture {name}"
        _fail(f"open_clip has no model {reference}", known)
    if file:
        _fail(f"{repository} has no open_clip_config.json", "write that file yourself, or name another model")
    return repository


def _remotes(layout: Layout, info: Any, repository: str) -> list[Remote]:
    """Return the files to download, small ones first, so that errors show before the gigabytes arrive."""
    listed = {file.rfilename: file for file in info.siblings or ()}
    names = layout.select(listed)
    if not set(names) & set(layout.weights):
        _fail(f"{repository} has none of {', '.join(layout.weights)}", "name another model")
    remotes = []
    for name in names:
        url, large = hf_hub_url(repository, name, revision=info.sha), listed[name].lfs
        hashes = (large.sha256, "") if large else ("", listed[name].blob_id or "")
        remotes.append(Remote(name, url, listed[name].size, *hashes))
    return sorted(remotes, key=lambda remote: remote.bytes or 0)


def _download(remotes: list[Remote], folder: Path, headers: Mapping[str, str]) -> None:
    """Download files into a folder, resuming earlier attempts, and check each."""
    hashes = {}
    for remote in remotes:
        _send(file=remote.name)
        path, part = folder / remote.name, folder / (remote.name + PART)
        sha256 = _checked(remote, path)
        if sha256 is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            sha256 = _checked(remote, part) or _complete(remote, part, headers)
            part.replace(path)
        hashes[remote.name] = sha256
    _send(done=hashes, folder=str(folder))


def _complete(remote: Remote, part: Path, headers: Mapping[str, str]) -> str:
    """Complete a partial file and return its sha256."""
    size_bytes = part.stat().st_size if part.is_file() else 0
    if remote.bytes is not None and size_bytes >= remote.bytes:
        part.unlink(missing_ok=True)  # complete, but its hash is wrong
        size_bytes = 0
    with part.open("ab", buffering=0) as file:
        try:
            http_get(
                remote.url,
                file,
                resume_size=size_bytes,
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
        _fail(f"the content of {remote.name} differs from the announced hash", "try again")
    return sha256


def _checked(remote: Remote, path: Path) -> str | None:
    """Return a file's sha256, None if it is absent or differs from the announced size or hash."""
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


def _send(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _fail(reason: str, next_step: str) -> NoReturn:
    _send(error=reason, next=next_step)
    raise SystemExit(1)


def _last_words(kind: type[BaseException], exc: BaseException, _: TracebackType | None) -> None:
    """Report any other exception in one line: no network, no name service, a bad certificate, a full disk."""
    lines = str(exc).strip().splitlines() or [""]
    _send(error=f"{kind.__name__}: {lines[0]}" if lines[0] else kind.__name__, next="")


if __name__ == "__main__":
    main()
