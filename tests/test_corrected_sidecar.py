"""A corrected transcript that is exported as a sidecar is the same transcript when it is read again."""

from __future__ import annotations

from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.indexer.speech.subtitles import read_sidecar
from vfindex.search.service import SearchService
from vfindex.storage.records import Line, Segment
from vfindex.storage.writer import writing

SAID = ("the whether is fine", "we meat at the harbour")
# SubRip cannot tell such brackets from markup.
RIGHT = {"srt": "the weather, they say, is fine & dry", "vtt": "the weather, they say, is <fine> & dry"}


@pytest.mark.parametrize("format_", RIGHT)
def test_a_corrected_transcript_comes_back_as_it_was_exported(tmp_path: Path, format_: str) -> None:
    lines = [Segment(1.2345 + 2 * n, 2.9996 + 2 * n, text, "asr", "en") for n, text in enumerate(SAID)]
    with writing(tmp_path / "library") as writer:
        install(writer)
        add_video(writer, "a", [clip(visual=axis(1))], lines)
        writer.publish()
    with SearchService(tmp_path / "library") as service:
        made = service.correct(Line.of("a", service.transcript("a").segments[0]), RIGHT[format_])
        sidecar = tmp_path / f"a.{format_}"
        sidecar.write_bytes(service.export(service.video("a"), format_).data)
        read = read_sidecar(bytes(sidecar), "en", 10.0).segments
        with writing(tmp_path / "library") as writer:
            writer.catalog.remove(b"/videos/a")
            add_video(writer, "a", [clip(visual=axis(1))], list(read))
        [now] = service.corrections("a").corrections
        assert [segment.text for segment in service.transcript("a").segments] == [made.text, SAID[1]]
        assert (now.state, service.transcript("a").segments[0].original) == ("taken_up", None)
