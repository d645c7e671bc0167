"""Builds the new version of an upgrade from the one in use, round by round while that one changes."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from vfindex.indexer.boundary import one_file
from vfindex.indexer.models.base import PassageEncoder
from vfindex.indexer.runs.execute import RunSettings, index_files, new_run, open_text
from vfindex.indexer.runs.refresh_text import retitle
from vfindex.indexer.runs.report import Progress, UpgradeReport
from vfindex.indexer.runs.reuse import Reuse, StoredVideos, VideoCopier, stored_problem
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.scan.walk import discover
from vfindex.storage.db.catalog import now
from vfindex.storage.db.sources import (
    Root,
    known_files,
    remember,
    replace_exclusions,
    stored_exclusions,
    stored_roots,
)
from vfindex.storage.db.units import preview_videos, recognised_videos
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import Problem, VideoError
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta, put_recognises_speech
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import SEARCHABLE, Setup
from vfindex.storage.writer import Writer


@dataclass(frozen=True, slots=True)
class _State:
    """The contents of a model version.

    recognised, coarse: fingerprints of the videos with recognised speech, and of those with a preview alone. asr:
    whether speech is recognised. removed: paths that no run indexes again.
    """

    videos: tuple[StoredVideo, ...]
    recognised: frozenset[str]
    coarse: frozenset[str]
    asr: bool
    roots: tuple[Root, ...]
    removed: tuple[bytes, ...]

    @classmethod
    def of(cls, library: Library) -> _State:
        with library.snapshot() as snapshot:
            asr = LibraryMeta(snapshot).recognises_speech
            videos, heard, coarse = snapshot.videos(), recognised_videos(snapshot), preview_videos(snapshot)
            return cls(tuple(videos), heard, coarse, asr, stored_roots(snapshot), stored_exclusions(snapshot))

    def searchable(self) -> list[StoredVideo]:
        return [video for video in self.videos if video.state in SEARCHABLE]


class VersionBuilder:
    """Builds a model version from another one, which other runs may go on writing to."""

    def __init__(
        self, old: Library, writer: Writer, setups: tuple[Setup, Setup], settings: RunSettings, callbacks: Callbacks
    ) -> None:
        """writer: of the new version. setups: of the old version and of the new one."""
        self.old = old
        self.writer = writer
        self.callbacks = callbacks
        self._setup = setups[1]
        self._reuse = Reuse.between(*setups)
        self._settings = settings
        self._seen: _State | None = None

    def is_done(self) -> bool:
        """Return whether the old version is as it was when the last round began."""
        return self._seen == _State.of(self.old)

    def round(self, report: UpgradeReport) -> None:
        """Copy or index what the new version lacks, and remove what the old one no longer has."""
        state = self._seen = _State.of(self.old)
        put_recognises_speech(self.writer.catalog, state.asr)
        self._carry_failures(state)
        missing = [video for video in state.searchable() if not self._has(video, state)]
        opened = [video for video in missing if self._must_be_opened(video, state)]
        ready = [video for video in missing if not self._must_be_opened(video, state)]
        failed = self._copy(ready, state, report)
        if opened and not report.interrupted:
            failed |= self._index(opened, state, report)
        if not report.interrupted:
            untitled = self._align(state)
            remember(self.writer.catalog, state.roots)
            replace_exclusions(self.writer.catalog, state.removed, now())
            report.lost = [*self._lost(state, failed), *untitled]
        if self.writer.catalog.change():
            with self.callbacks.interruptible():
                self.writer.publish()
        with self.writer.library.snapshot() as snapshot:
            counts = snapshot.counts()
        report.videos, report.clips = sum(counts.get(name, 0) for name in SEARCHABLE), counts["clip"]

    # --- what is missing ---------------------------------------------------------------------------------------------

    def _has(self, video: StoredVideo, state: _State) -> bool:
        found = self.writer.catalog.find(video.fingerprint)
        return found is not None and found[1] in SEARCHABLE and (found[2] or video.fingerprint not in state.recognised)

    def _held(self, video: StoredVideo, state: _State) -> frozenset[ModalityName]:
        return self._reuse.held(video, recognised=video.fingerprint in state.recognised, asr=state.asr)

    def _must_be_opened(self, video: StoredVideo, state: _State) -> bool:
        if video.fingerprint in state.coarse or not self._held(video, state).issuperset(self._reuse.modalities):
            return True
        has_untimed = any(chapter.start_s is None for chapter in video.chapters)  # of an older library
        return has_untimed and any(_is_file(place.path) for place in video.locations)

    # --- videos -------------------------------------------------------------------------------------------------

    def _text(self) -> PassageEncoder:
        with self.callbacks.interruptible():
            return open_text(self._setup, self._settings.cache, say=self.callbacks.say)

    def _copy(self, videos: Sequence[StoredVideo], state: _State, report: UpgradeReport) -> dict[bytes, Problem]:
        """Copy videos of which no file need be opened; return path -> why it failed."""
        failed: dict[bytes, Problem] = {}
        if not videos:
            return failed
        encoder = None if self._reuse.embeds_nothing else self._text()
        copier = VideoCopier(self.old, self.writer, self._reuse, encoder)
        total_s = sum(video.end_s - video.start_s for video in videos)
        done_s = 0.0
        for number, video in enumerate(videos, start=1):
            if self.callbacks.stop():
                report.interrupted = True
                break
            try:
                with one_file(video.locations[0].path, "commit"):
                    report.taken_over += copier.copy(video, recognised=video.fingerprint in state.recognised)
            except VideoError as exc:
                failed[exc.problem.path] = exc.problem
            done_s += video.end_s - video.start_s
            self.callbacks.progress(Progress(number, len(videos), done_s, total_s))
        return failed

    def _index(self, videos: Sequence[StoredVideo], state: _State, report: UpgradeReport) -> dict[bytes, Problem]:
        """Index videos again from their files; return path -> why it failed."""
        reuse = self._reuse
        run = new_run(self.writer, self._setup, self.callbacks)
        paths = [place.path for video in videos for place in video.locations if _is_file(place.path)]
        run.sort(discover(paths, avoid=[os.fsencode(self.old.root)], stop=self.callbacks.stop))
        kept = {video.fingerprint: video for video in videos if video.fingerprint not in state.coarse}
        held = {fingerprint: self._held(video, state) for fingerprint, video in kept.items()}
        if reuse.keeps_clips:
            self._link_pictures(videos)
        if run.has_work() and not run.report.interrupted:
            stored = StoredVideos(self.old, kept, held, reuse)
            index_files(run, self._setup, self._settings, stored)
            self._count(stored, report)
        report.interrupted = run.report.interrupted
        return {problem.path: problem for problem in run.report.failed}

    def _count(self, stored: StoredVideos, report: UpgradeReport) -> None:
        """Count the videos that were decoded or recognised again, of those that are complete now."""
        with self.writer.library.snapshot() as snapshot:
            lengths_s = {v.fingerprint: v.end_s - v.start_s for v in snapshot.videos() if v.state in SEARCHABLE}
        decoded = stored.decoded & lengths_s.keys()
        report.decoded += len(decoded)
        report.decoded_s += sum(lengths_s[fingerprint] for fingerprint in decoded)
        report.heard += len((stored.heard - decoded) & lengths_s.keys())
        report.transcripts_reused += len(stored.kept & decoded)

    def _link_pictures(self, videos: Sequence[StoredVideo]) -> None:
        with self.old.snapshot() as snapshot:
            for video in videos:
                names = [clip.thumbnail for clip in snapshot.clips_of(video.id) if clip.thumbnail]
                self.writer.link_thumbnails(self.old, names)

    # --- locations -----------------------------------------------------------------------------------------------

    def _carry_failures(self, state: _State) -> None:
        """Store the failures of the old version, so that these files are not tried again."""
        catalog = self.writer.catalog
        for video in state.videos:
            problem = stored_problem(video)
            if video.state not in ("failed", "quarantined") or problem is None or catalog.find(video.fingerprint):
                continue
            quarantine = video.state == "quarantined"
            catalog.fail_video(video.fingerprint, video.locations[0], problem, quarantine=quarantine)
            if entered := catalog.find(video.fingerprint):
                for place in video.locations[1:]:
                    catalog.place(entered[0], place)

    def _align(self, state: _State) -> list[Problem]:
        """Give every video the locations of the old version, and remove locations that it no longer has.

        Return why the title of some could not be updated.
        """
        catalog = self.writer.catalog
        prints = {path: file.fingerprint for path, file in known_files(catalog).items()}
        here: dict[str, set[bytes]] = {}
        for path, fingerprint in prints.items():
            here.setdefault(fingerprint, set()).add(path)
        theirs = {video.fingerprint for video in state.videos}
        moved = []
        for video in state.searchable():
            found = catalog.find(video.fingerprint)
            if found is None or found[1] not in SEARCHABLE:
                continue
            # A path whose content the old version has never had was changed meanwhile: the new version is ahead of it.
            places = [p for p in video.locations if prints.get(p.path) is None or prints[p.path] in theirs]
            if not places or {place.path for place in places} == here.get(video.fingerprint):
                continue
            moved.append((found[0], places[0].path))
            for place in places:
                self.writer.discard_thumbnails(catalog.place(found[0], place))
        wanted = {place.path for video in state.videos for place in video.locations}
        for path in prints.keys() - wanted:
            self.writer.discard_thumbnails(catalog.remove(path)[2])
        problems: list[Problem] = []
        if moved:
            encoder = self._text()
            for video_id, path in moved:
                try:
                    with one_file(path, "commit"):
                        retitle(self.writer, video_id, encoder)
                except VideoError as exc:
                    problems.append(exc.problem)
        return problems

    def _lost(self, state: _State, failed: dict[bytes, Problem]) -> list[Problem]:
        """Return why searchable videos are not in the new version; a file whose content has changed is not lost."""
        held = {path for path, file in known_files(self.writer.catalog).items() if file.state in SEARCHABLE}
        lost = []
        for video in state.searchable():
            paths = [place.path for place in video.locations]
            if self._has(video, state) or held.intersection(paths):
                continue
            reasons = [failed[path] for path in paths if path in failed]
            lost.append(reasons[0] if reasons else _missing(paths[0]))
        return lost


def _is_file(path: bytes) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _missing(path: bytes) -> Problem:
    step = "mount its disk or put it back and run the same command again, or leave it out with --allow-missing"
    return Problem(path, "open", "missing", "the file is not there now, and its pictures must be read again", step)
