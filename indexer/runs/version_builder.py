"""Builds the new version of an upgrade from the one in use, round by round while that one changes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vfindex.indexer.boundary import one_file
from vfindex.indexer.models.base import PassageEncoder
from vfindex.indexer.runs.execute import Command, RunSettings, open_text, recogniser_of, unusable_modalities
from vfindex.indexer.runs.refresh_text import retitle
from vfindex.indexer.runs.report import Progress, UpgradeReport
from vfindex.indexer.runs.reuse import Reuse, StoredVideos, VideoCopier, stored_problem
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.scan.walk import Discovered, discover
from vfindex.storage.db.catalog import now
from vfindex.storage.db.sources import Root, known_files, remember, replace_exclusions, stored_exclusions, stored_roots
from vfindex.storage.db.units import preview_videos, recognised_videos, unread_videos
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import NotPublished, Problem, VideoError
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta, put_switch
from vfindex.storage.modalities import ModalityName, get_modality, switches
from vfindex.storage.records import SEARCHABLE, Setup
from vfindex.storage.writer import Writer


@dataclass(frozen=True, slots=True)
class _State:
    """The contents of a model version.

    recognised, coarse: fingerprints of the videos with recognised speech, and of those with a preview alone. unread:
    fingerprint -> modalities, see `unread_videos`. left_out: modalities that runs leave out by choice. removed: paths
    that no run indexes again.
    """

    videos: tuple[StoredVideo, ...]
    recognised: frozenset[str]
    coarse: frozenset[str]
    unread: Mapping[str, frozenset[ModalityName]]
    left_out: frozenset[ModalityName]
    roots: tuple[Root, ...]
    removed: tuple[bytes, ...]

    @classmethod
    def of(cls, library: Library) -> _State:
        with library.snapshot() as snapshot:
            return cls(
                videos=tuple(snapshot.videos()),
                recognised=recognised_videos(snapshot),
                coarse=preview_videos(snapshot),
                unread=unread_videos(snapshot),
                left_out=LibraryMeta(snapshot).left_out,
                roots=stored_roots(snapshot),
                removed=stored_exclusions(snapshot),
            )

    def searchable(self) -> list[StoredVideo]:
        return [video for video in self.videos if video.state in SEARCHABLE]


class VersionBuilder:
    """Builds a model version from another one, which other runs may go on writing to.

    writer: of the round in progress.
    """

    writer: Writer

    def __init__(
        self,
        old: Library,
        setups: tuple[Setup, Setup],
        settings: RunSettings,
        callbacks: Callbacks,
        report: UpgradeReport,
    ) -> None:
        """setups: of the old version and of the new one."""
        self.old = old
        self.callbacks = callbacks
        self.report = report
        self._setup = setups[1]
        self._reuse = Reuse.between(*setups)
        self._settings = settings
        self._unusable = unusable_modalities(hears=recogniser_of(setups[1], settings.cache).usable)
        self._state = _State.of(old)
        self._opened: list[StoredVideo] = []
        self._failed: dict[bytes, Problem] = {}

    def is_done(self) -> bool:
        """Return whether the old version is as it was when the last round began."""
        return self._state == _State.of(self.old)

    def reads_more(self) -> bool:
        """Return whether something that runs left out of a video can be read now."""
        return any(not names <= self._idle(self._state) for names in self._state.unread.values())

    def added_but_off(self) -> list[ModalityName]:
        """Return the modalities that the new version adds and that runs leave out by choice."""
        off = self._off(self._state)
        return [name for name in self._reuse.modalities if name in off and name not in self._reuse.stored]

    def round(self, finish: Callable[[Run, Setup], None]) -> Command:
        """Return a run that adds what the new version lacks and removes what the old one no longer has."""
        return Command(
            "upgrade",
            Writer.existing_setup,
            self._scan,
            self._copy_ready,
            self._reuse_parts,
            self._complete,
            finish,
            thorough=False,
        )

    def _copy_ready(self, writer: Writer, _: Setup) -> None:
        """Copy the videos of which no file need be opened."""
        self.writer = writer
        state = self._state = _State.of(self.old)
        off = self._off(state)
        for modality in switches():
            put_switch(writer.catalog, modality, modality not in off)
        self._carry_failures(state)
        missing = [video for video in state.searchable() if not self._has(video, state)]
        self._opened = [video for video in missing if self._must_be_opened(video, state)]
        self._failed = self._copy([video for video in missing if not self._must_be_opened(video, state)], state)

    def _scan(self, run: Run) -> Iterable[Discovered]:
        """Return the files that must be opened."""
        run.report.interrupted = self.report.interrupted
        if run.report.interrupted:
            return ()
        paths = [place.path for video in self._opened for place in video.locations if _is_file(place.path)]
        return discover(paths, avoid=[os.fsencode(self.old.root)], stop=run.callbacks.stop)

    def _reuse_parts(self, run: Run) -> None:
        """Give the run the parts of these videos that stay valid."""
        reuse, state = self._reuse, self._state
        kept = {video.fingerprint: video for video in self._opened if video.fingerprint not in state.coarse}
        held = {fingerprint: self._held(video, state) for fingerprint, video in kept.items()}
        run.stored = StoredVideos(self.old, kept, held, reuse)
        if reuse.keeps_clips:
            self._link_pictures(self._opened)

    def _complete(self, run: Run) -> None:
        """Give the new version the places, sources and exclusions of the old one, and report what it lacks."""
        if run.stored is not None:
            self._count(run.stored, self.report)
        self.report.interrupted = run.report.interrupted
        if self.report.interrupted:
            return
        untitled = self._align(self._state)
        remember(self.writer.catalog, self._state.roots)
        replace_exclusions(self.writer.catalog, self._state.removed, now())
        self.writer.write_backup()
        failed = self._failed | {problem.path: problem for problem in run.report.failed}
        self.report.lost = [*self._lost(self._state, failed), *untitled]

    def measure(self, run: Run) -> None:
        """Count what the new version has after a round. Raises NotPublished."""
        if run.report.not_published:
            raise NotPublished(run.report.not_published)
        self.report.interrupted = run.report.interrupted
        with self.writer.library.snapshot() as snapshot:
            counts = snapshot.counts()
        self.report.videos, self.report.clips = sum(counts.get(name, 0) for name in SEARCHABLE), counts["clip"]

    # --- what is missing ---------------------------------------------------------------------------------------------

    def _has(self, video: StoredVideo, state: _State) -> bool:
        found = self.writer.catalog.find(video.fingerprint)
        return found is not None and found[1] in SEARCHABLE and (found[2] or video.fingerprint not in state.recognised)

    def _held(self, video: StoredVideo, state: _State) -> frozenset[ModalityName]:
        """Return the modalities of a video that stay valid."""
        heard = [get_modality(m) for m in self._reuse.modalities if get_modality(m).origin == "audio"]
        recognised = {each.name for each in heard if each.recogniser is not None}
        idle, unread = self._idle(state), state.unread.get(video.fingerprint, frozenset())
        if not video.has_audio:
            idle |= recognised
        if video.fingerprint not in state.recognised:
            unread |= recognised
        held = self._reuse.held(idle, unread)
        return held if video.has_audio else held | {each.name for each in heard if each.recogniser is None}

    def _off(self, state: _State) -> frozenset[ModalityName]:
        """Return the modalities that runs leave out by choice; one whose model was just chosen is wanted."""
        chosen = (m for m in self._reuse.modalities if get_modality(m).is_optional and m not in self._reuse.stored)
        return state.left_out.difference(chosen)

    def _idle(self, state: _State) -> frozenset[ModalityName]:
        """Return the modalities that are not extracted, by choice or for want of their recogniser."""
        return self._off(state) | self._unusable

    def _must_be_opened(self, video: StoredVideo, state: _State) -> bool:
        if video.fingerprint in state.coarse or not self._held(video, state).issuperset(self._reuse.modalities):
            return True
        has_untimed = any(chapter.start_s is None for chapter in video.chapters)  # of an older library
        return has_untimed and any(_is_file(place.path) for place in video.locations)

    # --- videos -------------------------------------------------------------------------------------------------

    def _text(self) -> PassageEncoder:
        with self.callbacks.interruptible():
            return open_text(self._setup, self._settings.cache, say=self.callbacks.say)

    def _copy(self, videos: Sequence[StoredVideo], state: _State) -> dict[bytes, Problem]:
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
                self.report.interrupted = True
                break
            try:
                with one_file(video.locations[0].path, "commit"):
                    self.report.taken_over += copier.copy(video, recognised=video.fingerprint in state.recognised)
            except VideoError as exc:
                failed[exc.problem.path] = exc.problem
            done_s += video.end_s - video.start_s
            self.callbacks.progress(Progress(number, len(videos), done_s, total_s))
        return failed

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
    return Problem(path, "open", "missing", "the file is not there now, and it must be read again", step)
