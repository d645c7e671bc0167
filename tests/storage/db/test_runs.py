"""What the runs and videos of a library say about the next run."""

from __future__ import annotations

from pathlib import Path

from library_maker import add_video, axis, clip, install

from vfindex.storage.db.runs import main_language
from vfindex.storage.library import Library
from vfindex.storage.records import Segment
from vfindex.storage.writer import writing


def said(*languages: str, track: str = "speech") -> list[Segment]:
    return [
        Segment(n, n + 1, f"no. {n}", "sidecar", language, None, track=track)  # type: ignore[arg-type]
        for n, language in enumerate(languages)
    ]


def test_the_main_language_is_that_of_most_transcripts(tmp_path: Path) -> None:
    with writing(tmp_path / "library") as writer:
        install(writer)
        with writer.library.snapshot() as snapshot:
            assert main_language(snapshot) == ""
        add_video(writer, "a", [clip(visual=axis(0))], said("", "", "", "de", "pt-BR", "pt-BR"))
        add_video(writer, "b", [clip(visual=axis(0))], said("en", "en", "en", track="text"))
    with Library.open(tmp_path / "library").snapshot() as snapshot:
        assert main_language(snapshot) == "pt"
