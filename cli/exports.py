"""Where an export goes: one file or standard output, cuts of videos, or sidecars of each video."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vfindex.cli.out_file import check_new_file, out_file, write_out_file
from vfindex.cli.output import clock, plain, say
from vfindex.storage.errors import LibraryError, UsageError, VideoError, counted

if TYPE_CHECKING:
    from vfindex.search.export.formats import Exported
    from vfindex.search.export.selection import Excerpt, Selection
    from vfindex.search.service import SearchService

# The format of cuts, and those of sidecars, of each video a file of its own.
CUT, SIDECARS = "mp4", ("xmp", "nfo")


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for. path: None for standard output. The flags are those of `vfindex export`."""

    path: Path | None
    format: str
    beside: bool
    single: bool
    exact: bool
    force: bool

    def check(self) -> None:
        """Raise UsageError for flags of another format, and a place that cannot be written, or not without --force."""
        if self.beside and self.format not in SIDECARS:
            raise UsageError("--beside is for tags: --format xmp or nfo")
        if (self.single or self.exact) and self.format != CUT:
            raise UsageError(f"{'--single' if self.single else '--exact'} is for cuts: --format mp4")
        if self.format == CUT and self.path is None:
            raise UsageError("an mp4 goes into a file: name it with --output, or a folder with --single")
        if self.format in SIDECARS and self.beside == (self.path is not None):
            raise UsageError("tags go next to each video with --beside, or into the folder --output, one of them")
        if self.format in SIDECARS or self.single:
            if self.path is not None and not self.path.is_dir():
                raise UsageError(
                    f"several files go into a folder, and {self.path} is no folder; make it first: mkdir {self.path}"
                )
        elif self.path is not None:
            check_new_file(self.path, "--output", force=self.force)

    def write(self, service: SearchService, made: Exported) -> None:
        """Write one file, or to standard output. Raises UsageError."""
        if self.path is not None:
            _refuse_video(service, self.path)
        for note in made.notes:
            say(note)
        if self.path is None:
            sys.stdout.flush()
            sys.stdout.buffer.write(made.data)
        else:
            write_out_file(self.path, "--output", made.data)
            say(f"written: {self.path}")

    def write_files(self, service: SearchService, selection: Selection) -> bool:
        """Write cuts, or tags; return whether all is well. Raises UsageError, LibraryError, VideoError."""
        from vfindex.search.export.formats import NOTHING

        for note in selection.notes:
            say(note)
        excerpts = selection.once().excerpts
        if not excerpts:
            say(NOTHING)
            return False
        if self.format in SIDECARS:
            return self._write_sidecars(selection)
        return self._write_cuts(service, excerpts)

    def _write_cuts(self, service: SearchService, excerpts: Sequence[Excerpt]) -> bool:
        """Cut what is there, and say what is not; return whether all is well."""
        from vfindex.search.export.cuts import present

        path = self.path or Path()
        there, lost = present(excerpts, service.file)
        for line in lost:
            say(line)
        files = {path / _cut_name(each): (each,) for each in there} if self.single else {path: there}
        for file in files:
            check_new_file(file, "--output", force=self.force)
            _refuse_video(service, file)
        with _signals_interrupt():
            done = [self._cut_said(service, file, parts) for file, parts in files.items()]
        return all(done) and not lost

    def _cut_said(self, service: SearchService, path: Path, parts: Sequence[Excerpt]) -> bool:
        """Write one cut; return whether all is well. With --single, others follow one that fails."""
        try:
            return not self._cut(service, path, parts)
        except (LibraryError, VideoError) as exc:
            if not self.single:
                raise
            say(f"{path.name} was not written: {exc}")
            return False

    def _cut(self, service: SearchService, path: Path, parts: Sequence[Excerpt]) -> str:
        """Write one cut; return what was lost to damage, or ""."""
        from vfindex.search.export.cuts import remarks, start_timecode

        spans = [(each.source.fingerprint, each.start_s, each.end_s) for each in parts]
        with out_file(path, "--output") as file, _progress(path.name) as draw:

            def write(at: int, data: bytes) -> None:
                file.seek(at)
                file.write(data)
                draw(len(data))

            timecode = start_timecode(parts, exact=self.exact)
            made = service.cut(spans, write, exact=self.exact, timecode=timecode)
        say(f"written: {path} ({clock(made.duration_s, tenths=True)})")
        for line in remarks(parts, made):
            say(line)
        return made.error

    def _write_sidecars(self, selection: Selection) -> bool:
        from vfindex.search.export.tags import by_video, is_foreign, sidecar_path, write_nfo, write_xmp

        write = write_xmp if self.format == "xmp" else write_nfo
        written: set[Path] = set()
        refused = 0
        for excerpts in by_video(selection):
            path = sidecar_path(excerpts[0].source.path, self.format, self.path)
            video = os.fsdecode(excerpts[0].source.path)
            if self.beside and not os.path.isfile(video):
                say(f"{video} is not there, so nothing was written next to it")
            elif path in written:
                say(f"{path} has the tags of another video of this name; export the two one by one")
            elif is_foreign(path):
                say(f"{path} was not written by vfindex, so it was left as it is; move it away, or use --output FOLDER")
            else:
                try:
                    write_out_file(path, "--output", write(selection.title, excerpts))
                    written.add(path)
                    continue
                except UsageError as exc:
                    say(str(exc))
            refused += 1
        say(f"{counted(len(written), 'file')} written")
        return not refused


def _refuse_video(service: SearchService, path: Path) -> None:
    """Raise UsageError for a file that is a video of the library, whatever was forced."""
    if not path.exists():
        return
    try:
        service.video(path.absolute())
    except LibraryError:
        return
    raise UsageError(f"{path} is a video of the library, which no export replaces; name another file for --output")


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let what ends a process interrupt it as Ctrl-C does: no part of a file is left. What is ignored stays so."""
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes bytes written and draws their sum, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(plain(name), total=None)
        yield lambda count: bar.advance(task, count)


def _cut_name(excerpt: Excerpt) -> str:
    """Return the name of a cut of its own: number, video, and start."""
    stem = re.sub(r"[^\w.-]+", "-", excerpt.source.name.rpartition(".")[0] or excerpt.source.name).strip("-.")[:40]
    return f"{excerpt.number:03}-{stem}-{clock(excerpt.start_s).replace(':', '.')}.mp4"
