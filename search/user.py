"""What people write about a library: marks of clips, corrections of transcripts, and saved questions."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vfindex.search.libraries import OpenLibraries, existing_video
from vfindex.search.query.like import Like, clip_among, video_among
from vfindex.search.query.parser import parse
from vfindex.search.query.request import Judged
from vfindex.search.results import ListInfo, ListList, MarkInfo, MarkList, SavedList
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.library import again_if_changed
from vfindex.storage.records import ClipKey, Line

if TYPE_CHECKING:  # a search does without; its start counts
    from pathlib import Path

    from vfindex.search.corrections import CorrectionInfo, CorrectionList
    from vfindex.storage.db.reader import Snapshot
    from vfindex.storage.db.videos import StoredVideo
    from vfindex.storage.user.data import UserData
    from vfindex.storage.user.records import Mark, SavedQuery


class UserWriting(OpenLibraries):
    """Marks and corrections, each in the library of its video; saved questions of the first. Written at once."""

    def mark(
        self,
        clip: Like | ClipKey | str,
        *,
        list_: str | None = None,
        note: str | None = None,
        question: str = "",
        grade: int | None = None,
        by: str | None = None,
    ) -> MarkInfo:
        """Store a mark of a clip, at once, also while a run works; return it. clip: as for `similar`.

        The same person's mark of the clip in this list is changed. list_: None for `marks`. note: None keeps its note.
        question, grade: a judgement, see `NewMark`. by: None for the user of this process.
        Raises QueryError, UsageError, LibraryError.
        """
        from vfindex.search.marks import marks_with_paths, moment_of
        from vfindex.storage.user.data import UserData
        from vfindex.storage.user.records import DEFAULT_LIST, NewMark

        with self.opened() as (libraries, snapshots):
            number, found = clip_among(snapshots, clip)
            list_ = DEFAULT_LIST if list_ is None else list_
            new = NewMark(moment_of(snapshots[number], found), list_, note, question, grade, by)
            [made] = marks_with_paths(snapshots[number], [UserData.open(libraries[number].root).add_mark(new)]).marks
        return made

    @again_if_changed
    def marks(self, *, list_: str | None = None, question: str | None = None) -> MarkList:
        """Return the marks of all users in all libraries, the oldest first. list_, question: only of these."""
        from vfindex.search.marks import marks_with_paths

        with self.opened() as (_, snapshots):
            found = [
                mark
                for snapshot, data in zip(snapshots, self._data(), strict=True)
                for mark in marks_with_paths(snapshot, data.marks(list_=list_, question=question)).marks
            ]
        return MarkList(tuple(sorted(found, key=lambda mark: mark.at) if len(snapshots) > 1 else found))

    def judged(self, question: str) -> list[Judged]:
        """Return the judgements of a question in the first library, the oldest first."""
        marks = sorted(self._written().marks(question=question), key=lambda mark: mark.written())
        return [
            Judged(ClipKey(mark.moment.fingerprint, mark.moment.start_ms), mark.grade)
            for mark in marks
            if mark.grade is not None
        ]

    def remove_marks(self, ids: Iterable[int], video: str | None = None) -> MarkList:
        """Delete marks, all or none; return them. Raises UsageError for an id that no mark has.

        video: the fingerprint of their video; it tells which of several libraries. None: the first.
        """
        from vfindex.storage.user.data import checked_ids

        chosen = checked_ids(ids)
        for number, data in enumerate(self._data() if video is not None else self._data()[:1]):
            known = {mark.id for mark in data.marks() if video in (None, mark.moment.fingerprint)}
            if known.issuperset(chosen):
                return self._shown(number, data.remove_marks(chosen))
            unknown = min(set(chosen) - known)
        raise UsageError(f"there is no mark {unknown}; `vfindex marks` lists them, with their ids")

    def lists(self) -> ListList:
        """Return the lists of marks, by name."""
        counts = Counter(mark.list for mark in self.marks().marks)
        return ListList(tuple(ListInfo(name, count) for name, count in sorted(counts.items())))

    def rename_list(self, name: str, new_name: str) -> ListList:
        """Rename a list; return all. Raises QueryError if it has no marks, UsageError if the other one has any."""
        if not self.marks(list_=name).marks:
            raise QueryError(f"there is no list {name}")
        if self.marks(list_=new_name).marks:
            raise UsageError(f"there is a list {new_name} already; use another name")
        for data in self._data():
            data.rename_list(name, new_name)
        return self.lists()

    def remove_list(self, name: str) -> MarkList:
        """Delete a list with its marks; return them. Raises QueryError if it has none."""
        found = self.marks(list_=name)
        if not found.marks:
            raise QueryError(f"there is no list {name}")
        for data in self._data():
            data.remove_marks(mark.id for mark in data.marks(list_=name))
        return found

    @again_if_changed
    def _shown(self, number: int, marks: Sequence[Mark]) -> MarkList:
        from vfindex.search.marks import marks_with_paths

        with self.engines[number].library().snapshot() as snapshot:
            return marks_with_paths(snapshot, marks)

    @again_if_changed
    def correct(self, line: Line, text: str, *, by: str | None = None, shown: str | None = None) -> CorrectionInfo:
        """Store what a line of a transcript should read; return it. Searches and transcripts have it at once.

        text: "" where nothing is said or written: then the line is in no export, and no words find it.
        line: `Line.of` a segment of a transcript. by: None for the user of this process. shown: what the line read when
        it was shown; raises EditConflict if somebody has corrected it since. None: the last correction wins.
        Raises UsageError, also if the video has no such line any more, and LibraryError.
        """
        from vfindex.search.corrections import corrections_with_states, line_of
        from vfindex.storage.user.data import UserData

        with self.opened() as (libraries, snapshots):
            number, video = self._video(snapshots, line.fingerprint)
            checked = line_of(snapshots[number].segments(video.id), line)
            made = UserData.open(libraries[number].root).correct(checked, text, by, shown)
            [found] = corrections_with_states(snapshots[number], [made]).corrections
        return found

    @again_if_changed
    def corrections(self, video: str | Path | None = None) -> CorrectionList:
        """Return the corrections in a video, a path or a fingerprint; None: all, of all libraries.

        Those whose line is not there any more are among them. Raises LibraryError.
        """
        from vfindex.search.corrections import CorrectionList, corrections_with_states

        found: list[CorrectionInfo] = []
        with self.opened() as (_, snapshots):
            number, wanted = (None, None) if video is None else self._video(snapshots, video)
            for n, (snapshot, data) in enumerate(zip(snapshots, self._data(), strict=True)):
                if number in (None, n):
                    made = data.corrections()
                    chosen = [each for each in made if wanted is None or each.line.fingerprint == wanted.fingerprint]
                    found += corrections_with_states(snapshot, chosen).corrections
        return CorrectionList(tuple(found))

    @again_if_changed
    def remove_corrections(
        self, ids: Iterable[int], video: str | None = None, *, shown: str | None = None
    ) -> CorrectionList:
        """Delete corrections, all or none, so that their lines read as before; return them.

        video: the fingerprint of their video; it tells which of several libraries. None: the first. shown: what they
        read when they were shown; raises EditConflict for one that reads otherwise now. Raises UsageError for an id
        that no correction has, LibraryError.
        """
        from vfindex.search.corrections import corrections_with_states
        from vfindex.storage.user.data import checked_ids

        chosen = checked_ids(ids)
        for number, data in enumerate(self._data() if video is not None else self._data()[:1]):
            known = {each.id: each for each in data.corrections() if video in (None, each.line.fingerprint)}
            if known.keys() >= set(chosen):
                with self.opened() as (_, snapshots):
                    found = corrections_with_states(snapshots[number], [known[id_] for id_ in chosen])
                data.remove_corrections(chosen, shown)
                return found
            unknown = min(set(chosen) - known.keys())
        raise UsageError(f"there is no correction {unknown}; `vfindex corrections` lists them, with their ids")

    def _video(self, snapshots: Sequence[Snapshot], name: str | Path) -> tuple[int, StoredVideo]:
        """Return the number of the first library with a video, and the video. Raises LibraryError."""
        number, video = video_among(snapshots, name)
        return number, existing_video(video, name)

    def save_query(self, name: str, text: str, by: str | None = None) -> SavedQuery:
        """Store a question under a name; return it. Raises QueryError, and UsageError if another one has the name."""
        parse(text)
        return self._written().save_query(name, text, by)

    def saved_queries(self) -> SavedList:
        """Return the saved questions of all users, by name."""
        return SavedList(tuple(self._written().saved_queries()))

    def saved_query(self, name: str) -> SavedQuery:
        """Return a saved question. Raises QueryError if there is none of this name."""
        found = self._written().saved_query(name)
        if found is None:
            raise QueryError(f"there is no saved question {name}; save one with: vfindex save {shlex.quote(name)} TEXT")
        return found

    def remove_query(self, name: str) -> SavedQuery:
        """Delete a saved question; return it. Raises QueryError if there is none of this name."""
        found = self.saved_query(name)
        self._written().remove_query(name)
        return found

    def _written(self) -> UserData:
        return self._data()[0]

    def _data(self) -> list[UserData]:
        """Return what people have written into each library."""
        from vfindex.storage.user.data import UserData

        return [UserData.open(engine.library().root) for engine in self.engines]
