"""Library: the reading side of a library folder (database, joint indexes, query encoders, thumbnails)."""

from __future__ import annotations

import os
import shlex
import weakref
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from vfindex.storage.db.engine import FOLDER, check_integrity, connect
from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.errors import (
    DatabaseLost,
    IndexUnusable,
    LibraryChanged,
    LibraryDamaged,
    LibraryError,
    LibraryNotFound,
    LibraryVersion,
)
from vfindex.storage.files.file_systems import is_on_shared
from vfindex.storage.files.permissions import DATABASE, has_file, refuse_unreadable, unreadable
from vfindex.storage.index.model_versions import in_use
from vfindex.storage.index.reader import LIST_SUFFIX, SEGMENT_SUFFIX, JointIndex, files_of
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.shared import Comparable, spec_hash
from vfindex.storage.joint.vector import JointSpec, estimate_spec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import QueryModel, StoredFile
from vfindex.storage.settings_backup import INODE, lost_database, setup_of
from vfindex.storage.text.corrected import NO_CORRECTIONS
from vfindex.storage.user.corrections import CorrectionReader

if TYPE_CHECKING:
    from vfindex.storage.qdrant.index import OpenIndex

P = ParamSpec("P")
T = TypeVar("T")
# How a message about an unusable joint index ends.
_SCANS = ", so searches scan every clip; run: vfindex rebuild"


class Library:
    """A library folder, for readers. `writer.writing` is for the one writer."""

    def __init__(self, folder: Path, root: Path | None = None, *, corrected: bool = False) -> None:
        """folder: of a model version. root: of the library, which says which version is in use; None: `folder`.

        corrected: show people's corrections of transcripts in place of what was recognised.
        """
        self.folder = folder
        self.root = root or folder
        self.thumbs = folder / "thumbs"
        self.index = folder / "index"
        self._corrections = CorrectionReader(self.root) if corrected else None
        self._is_closed, self._closing = False, Lock()
        self._engine = connect(folder / "library.db", write=False)
        # The last connection to close moves the log into the database, so an unused reader must not stay open.
        weakref.finalize(self, self._engine.dispose)

    @classmethod
    def open(cls, folder: Path, *, corrected: bool = False) -> Library:
        """Open the model version in use of the library in `folder`.

        Raises LibraryNotFound, LibraryDamaged; DatabaseLost if library.db is missing and a repair can restore it.
        """
        place = in_use(folder)
        database = place / "library.db"
        if has_file(database) or os.path.lexists(database):
            for suffix in ("", "-wal", "-shm"):
                refuse_unreadable(database.with_name(database.name + suffix))
        else:
            raise lost_database(place, "is missing") or LibraryNotFound(
                f"there is no library in {folder}; make one with: vfindex ingest VIDEOS --library "
                f"{shlex.quote(str(folder))}"
            )
        return cls(place, folder, corrected=corrected)

    def close(self, *, permanently: bool = False) -> None:
        """Close the pooled connections; those in use close with their snapshot, and a later snapshot opens another.

        permanently: a later snapshot raises LibraryError instead.
        """
        self._is_closed = self._is_closed or permanently
        with self._closing:
            pool = self._engine.pool
            self._engine.dispose()
            pool.dispose()  # once more: until the engine has another pool, connections return to this one

    def is_in_use(self) -> bool:
        """Return whether this model version is still in use; an upgrade or a rollback changes that."""
        return in_use(self.root) == self.folder

    def snapshot(self, until_s: float | None = None) -> Snapshot:
        """Return a snapshot of the library as of now, see `Snapshot`. Readers never wait for the writer."""
        try:
            corrections = NO_CORRECTIONS if self._corrections is None else self._corrections.read()
            snapshot = Snapshot(self._engine, until_s, corrections)
        except LibraryError as exc:
            if self._is_closed:
                self.close()
                raise closed(self.root) from exc
            if not os.path.lexists(self.folder / "library.db"):
                raise lost_database(self.folder, "is missing") or LibraryNotFound(
                    f"there is no library in {self.folder} any more; if it was moved, open it where it is now"
                ) from exc
            if isinstance(exc, LibraryNotFound | DatabaseLost):
                what = "has lost all that it held" if isinstance(exc, LibraryNotFound) else "is no database any more"
                raise lost_database(self.folder, what) or exc from exc
            raise
        if self._is_closed:  # perhaps since the snapshot began
            snapshot.close()
            self.close()
            raise closed(self.root)
        return snapshot

    def query_folder(self, model: QueryModel) -> Path:
        """Return the folder of a query encoder. Raises LibraryDamaged for a name that leaves the library."""
        if Path(model.folder).name != model.folder or model.folder in ("", ".", ".."):
            raise LibraryDamaged(f"the library names a query encoder outside itself ({model.folder!r})")
        return self.folder / "query" / model.folder

    def thumbnail(self, name: str | None) -> Path | None:
        """Return the path of a thumbnail, None if there is no such file."""
        if not name or name != os.path.basename(name):
            return None
        path = self.thumbs / name[:2] / name
        return path if os.path.isfile(path) else None  # one in a folder that cannot be entered counts as missing

    def load_index(self, generation: Generation, *, thorough: bool = False) -> OpenIndex | None:
        """Return the joint index of a generation, None if its files cannot be used; `open_index` says why."""
        try:
            return self.open_index(generation, thorough=thorough)
        except IndexUnusable:
            return None

    def open_index(
        self, generation: Generation, *, thorough: bool = False, known: OpenIndex | None = None
    ) -> OpenIndex:
        """Return the joint index of a generation. Raises IndexUnusable if a file is gone, damaged or unreadable.

        thorough: check all of the files, else what `JointIndex.load` says. known: an open index of an earlier
        generation, whose segments are used again. One in Qdrant is not asked yet: `within` does that.
        """
        path = self.index / generation.file
        try:
            if path.parent != self.index or generation.file in ("", ".", ".."):
                raise IndexUnusable(f"the library names a joint index outside itself ({generation.file!r}){_SCANS}")
            if generation.file.endswith((SEGMENT_SUFFIX, LIST_SUFFIX)):
                same = known if isinstance(known, JointIndex) else None
                return JointIndex.load(self.index, generation.stored, thorough=thorough, known=same)
            from vfindex.storage.qdrant.index import open_index

            return open_index(self.index, generation.stored, thorough=thorough, known=known)
        except FileNotFoundError as exc:
            raise IndexUnusable(f"the joint index {exc.filename or path} is missing{_SCANS}") from exc
        except LibraryDamaged as exc:
            raise IndexUnusable(f"the joint index {path} is damaged or of an older form{_SCANS}") from exc
        except PermissionError as exc:
            raise unreadable(Path(exc.filename or path)) from exc
        except OSError as exc:
            raise IndexUnusable(f"the joint index {path} cannot be read ({exc.strerror}){_SCANS}") from exc

    def index_files(self, own: StoredFile) -> list[StoredFile]:
        """Return the files that a generation needs, its own first; that alone if it cannot be read."""
        try:
            return files_of(self.index, own)
        except (OSError, LibraryDamaged):
            return [own]


def closed(folder: Path) -> LibraryError:
    """Return the error of reading a library after its reader was closed."""
    return LibraryError(f"the library {folder} was closed by this program; open it again to read it")


def failed_folder(exc: BaseException | None) -> Path | None:
    """Return the folder of the database that could not be read, None if an error does not say."""
    while exc is not None:
        found: Path | None = getattr(getattr(exc, "orig", exc), FOLDER, None)
        if found is not None:
            return found
        exc = exc.__cause__
    return None


def refuse_torn(library: Library) -> None:
    """Raise LibraryDamaged if `library` is a copy with files of several instants, as `cp` makes it during a run.

    Checked only where a copy has a log: in a library that was copied while nothing wrote to it there is none.
    """
    database = library.folder / DATABASE
    try:
        if not database.with_name(f"{DATABASE}-wal").stat().st_size or is_on_shared(library.folder):
            return
        inode = str(database.stat().st_ino)
    except OSError:
        return
    try:
        with library.snapshot() as snapshot:
            if snapshot.get(INODE) in (None, inode):
                return
    except (LibraryNotFound, LibraryVersion):  # empty, or of a version that noted no inode; a writer goes on with both
        return
    engine = connect(database, write=False)
    try:
        faults = check_integrity(engine)
    finally:
        engine.dispose()
    if faults:
        raise LibraryDamaged(
            f"{library.folder} was copied while a run wrote to it, and its files do not fit together ({faults[0]}); "
            "copy it again with `vfindex backup DIR`, or run: vfindex repair"
        )


def again_if_changed(read: Callable[P, T]) -> Callable[P, T]:
    """Decorate `read` to run once more if the library changed under a reader that cannot lock it."""

    @wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except LibraryChanged:
            return read(*args, **kwargs)

    return reading


def reading_spec(snapshot: Snapshot) -> tuple[JointSpec, Generation | None]:
    """Return the JointSpec that a reader scores with, and the generation it comes from.

    Before the first generation it is the shared one, else it is estimated from the clips committed so far.
    """
    generation, meta = snapshot.generation(), LibraryMeta(snapshot)
    if generation is None:
        fusion, shared = meta.own_fusion, meta.shared_spec
        if shared is not None:
            return shared.spec, None
        return snapshot.remembered("estimated spec", lambda: estimated_spec(snapshot, fusion)), None
    spec = generation.spec
    if spec.weights_are_open and not meta.shares_spec:  # these may have been chosen since
        spec = spec.with_weights(meta.own_fusion.weights)
    return spec, generation


def reading_hash(snapshot: Snapshot, folder: Path) -> str:
    """Return the hash of setup and JointSpec that a reader scores with: libraries with the same one are comparable.

    folder: of library.db. Raises LibraryDamaged for a lost setup.
    """
    return snapshot.remembered("spec hash", lambda: _hash_of(snapshot, folder))


def _hash_of(snapshot: Snapshot, folder: Path) -> str:
    setup = setup_of(snapshot, folder)
    return spec_hash(Comparable.of(setup), reading_spec(snapshot)[0])


def estimated_spec(snapshot: Snapshot, fusion: Fusion) -> JointSpec:
    """Return the JointSpec that a new generation of the library would have. Raises UsageError, see `estimate_spec`."""
    priors = LibraryMeta(snapshot).priors
    dims = {m: len(p.mean) for m, p in priors.items()}
    return estimate_spec(priors, (rows for _, rows in snapshot.batches(snapshot.clip_ids(), dims)), fusion)
