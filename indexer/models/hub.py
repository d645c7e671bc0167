"""Fetching models: the only part of vfindex that reaches the network, and only when it is asked to.

The download runs in a child process, `hub_child.py`, under a watch: where nothing arrives for a while it is killed, and
what it left is gone on with the next time. A model appears in its folder all at once, its manifest written.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vfindex.indexer.media.child import Child
from vfindex.indexer.media.limits import child_environment
from vfindex.indexer.models.catalog import Card
from vfindex.indexer.models.store import (
    FileFacts,
    LocalModel,
    Manifest,
    folder_of,
    locate,
    manifest_path,
    read_manifest,
    write_manifest,
)
from vfindex.storage.errors import ModelError

TIMEOUT_S = 60.0  # without a byte
# Python imports what the child needs; open_clip's table, where it is asked, imports torch: 20 s on a busy machine.
START_S = 180.0
POLL_S = 0.2
# What the client reads: where its tokens and caches are, proxies, certificates.
NETWORK_VARIABLES = (
    *(
        "HOME",
        "USER",
        "LOGNAME",
        "XDG_",
        "HF_",
        "HUGGING",
        "NETRC",
        "SSL_CERT_",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
# A request of the client's gives up after this long without an answer, and is made again five times.
_REQUEST_S = 10


@dataclass(frozen=True, slots=True)
class Fetching:
    """How far a pull is. total_bytes: of all files, None where the publisher does not say."""

    reference: str
    file: str
    done_bytes: int
    total_bytes: int | None


def pull(
    card: Card,
    cache: Path,
    *,
    timeout_s: float = TIMEOUT_S,
    tell: Callable[[Fetching], None] = lambda _: None,
) -> tuple[LocalModel, bool]:
    """Return a model, fetched if it is not there whole, and whether anything was fetched.

    timeout_s: how long nothing may arrive. tell: called some times a second.
    Raises ModelError where the model cannot be fetched, is not what was announced, or cannot be stored; what has
    arrived stays for the next time.
    """
    there = _there(card, cache)
    if there is not None:
        return there, False
    folder = folder_of(card, cache)
    work = folder.with_name(f".pull-{folder.name}")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _alone(work.with_name(f"{work.name}.lock"), card):
            there = _there(card, cache)
            if there is None:
                _lend(card, cache, work)
                download = _Download(card, _revision(card, read_manifest(card, cache)), work, timeout_s, tell)
                download.run()
                _publish(card, cache, download)
                shutil.rmtree(work, ignore_errors=True)
    except OSError as exc:
        raise ModelError(
            f"{exc.filename or work}: the model {card.reference} cannot be stored here ({exc.strerror or exc}); "
            "make room, or name another VFINDEX_CACHE"
        ) from exc
    return there or locate(card.kind, card.reference, cache), there is None


def _there(card: Card, cache: Path) -> LocalModel | None:
    """Return the model if it is whole and, if it was pulled, of the commit to which this vfindex is pinned."""
    kept = read_manifest(card, cache)
    if kept is not None and kept.pulled and card.revision not in (None, kept.revision):
        return None
    try:
        return locate(card.kind, card.reference, cache)
    except ModelError:
        return None


@contextmanager
def _alone(path: Path, card: Card) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as exc:
        raise ModelError(f"another process is fetching {card.reference}; wait for it") from exc
    try:
        yield
    finally:
        lock.release()


def _lend(card: Card, cache: Path, work: Path) -> None:
    """Give a new pull what is left of a damaged one; the child looks at every file."""
    kept, folder = read_manifest(card, cache), folder_of(card, cache)
    if kept is None or not kept.pulled or not _revision(card, kept):
        return
    for name in kept.files:
        path = work / str(_revision(card, kept)) / name
        if (folder / name).is_file() and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, path)


def _revision(card: Card, kept: Manifest | None) -> str | None:
    return card.revision or (kept.revision if kept and kept.pulled else None) or None


def _publish(card: Card, cache: Path, download: _Download) -> None:
    """Put what was fetched where the model belongs, in one step; what was there before goes."""
    ready, folder = Path(download.folder), folder_of(card, cache)
    files = {}
    for name, sha256 in download.hashes.items():
        status = (ready / name).stat()
        files[name] = FileFacts(status.st_size, status.st_mtime_ns, sha256)
    manifest = Manifest(card.kind, card.reference, True, files, download.repository, download.revision)
    write_manifest(ready / manifest_path(card, cache).name, manifest)
    shutil.rmtree(folder, ignore_errors=True)
    ready.rename(folder)


class _Download:
    """The child that fetches a model, and what it has told."""

    def __init__(
        self, card: Card, revision: str | None, work: Path, timeout_s: float, tell: Callable[[Fetching], None]
    ) -> None:
        self._card, self._asked, self._work = card, revision, work
        self._timeout_s, self._tell = timeout_s, tell
        self._host = "the model hub"
        self._file = ""
        self._total_bytes: int | None = None
        self.repository = ""
        self.revision: str | None = None
        self.hashes: dict[str, str] = {}
        self.folder = ""

    def run(self) -> None:
        """Run the child to its end. Raises ModelError."""
        request_s = str(max(1, min(_REQUEST_S, ceil(self._timeout_s))))
        limits = {"HF_HUB_ETAG_TIMEOUT": request_s, "HF_HUB_DOWNLOAD_TIMEOUT": request_s}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-P", "-m", "vfindex.indexer.models.hub_child"]
        with Child(command, environment=child_environment(*NETWORK_VARIABLES) | limits | quiet) as child:
            self._watch(child)
            death = child.death()
        if not self.hashes:
            raise self._failed(death.reason, "")

    def _watch(self, child: Child) -> None:
        """Listen until the child has said all, counting what arrives on the disk. Raises ModelError if nothing does."""
        with suppress(BrokenPipeError):  # a child that is dead has said why
            child.send([json.dumps(self._request()).encode() + b"\n"])
        child.start_clock(idle_s=POLL_S)
        unread, bytes_before, last_s = b"", -1, time.monotonic()
        while True:
            with suppress(TimeoutError):
                data = child.read()
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    self._hear(json.loads(line))
                last_s = time.monotonic()
            arrived = _bytes_below(self._work)
            if arrived != bytes_before:
                bytes_before, last_s = arrived, time.monotonic()
                self._tell(Fetching(self._card.reference, self._file, arrived, self._total_bytes))
            if time.monotonic() - last_s > self._patience_s():
                raise self._silent()

    def _request(self) -> dict[str, Any]:
        return {
            "kind": self._card.kind,
            "reference": self._card.reference,
            "repository": self._card.repository,
            "revision": self._asked,
            "sha256": dict(self._card.sha256),
            "folder": str(self._work),
        }

    def _hear(self, message: dict[str, Any]) -> None:
        if "error" in message:
            raise self._failed(message["error"], message["next"])
        self._host = message.get("host", self._host)
        self._file = message.get("file", self._file)
        if "files" in message:
            self.repository, self.revision = message["repository"], message["revision"]
            sizes = list(message["files"].values())
            self._total_bytes = None if None in sizes else sum(sizes)
            self._need_room((self._total_bytes or 0) - _bytes_below(self._work))
        if "done" in message:
            self.hashes, self.folder = message["done"], message["folder"]

    def _patience_s(self) -> float:
        importing = self._host == "the model hub" or not (self._card.repository or self.repository)
        return max(START_S, self._timeout_s) if importing else self._timeout_s

    def _need_room(self, bytes_: int) -> None:
        free = shutil.disk_usage(self._work).free
        if bytes_ > free:
            raise ModelError(
                f"the model {self._card.reference} needs {bytes_ / 1e9:.1f} GB more in {self._work.parent}, where "
                f"{free / 1e9:.1f} GB are free; make room, or name another VFINDEX_CACHE"
            )

    def _silent(self) -> ModelError:
        what = self._file or "the list of its files"
        return self._failed(
            f"no answer for {self._patience_s():g} s about {what}", "try again, which goes on from there"
        )

    def _failed(self, reason: str, next_step: str) -> ModelError:
        return ModelError(
            f"the model {self._card.reference} could not be fetched from {self._host}: {reason}; "
            f"{next_step or 'try again'}; else put its files into {self._work.with_name(self._card.slug)} by hand "
            "(docs/models.md names them), or use --preset lite, which needs none"
        )


def _bytes_below(folder: Path) -> int:
    """Return how many bytes the files in a folder have; some may vanish meanwhile."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_size
            except FileNotFoundError:
                continue
    return total
