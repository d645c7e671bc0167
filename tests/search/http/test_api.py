"""The REST interface: the service's documents, one form of errors, pages of hits, caching, and what people write."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest
from library_maker import TEXTS, add_video, axis, clip, install
from PIL import Image
from serving import Site, serving

from vfindex.search.engine import SearchEngine
from vfindex.search.http.settings import RunCommand, StartedRun, Tools
from vfindex.search.query.image import Pictures
from vfindex.search.query.parser import parse
from vfindex.search.service import SearchService
from vfindex.storage.encoders.pixels import Pixels
from vfindex.storage.errors import LibraryLocked, QueryError, UsageError
from vfindex.storage.maintenance.removal import RemovalSettings, forget_path
from vfindex.storage.modalities import timed_text_modalities
from vfindex.storage.records import ClipKey, CutEnd
from vfindex.storage.writer import writing

# --- the service's documents ----------------------------------------------------------------------------------------


def test_answers_are_the_service_s_documents(site: Site, service: SearchService) -> None:
    key = service.search("2")[0].key
    name = key.fingerprint
    for path, document in (
        ("/search?q=2&k=3", service.search("2", top_k=3).to_dict()),
        ("/search?q=2&min_confidence=none", service.search("2", min_confidence="none").to_dict()),
        (f"/similar?clip={name}:{key.start_ms}", service.similar(key).to_dict()),
        (f"/search?like={name}:{key.start_ms}&like=v1:0", service.search(images=[key, ClipKey("v1", 0)]).to_dict()),
        ("/videos", service.videos().to_dict()),
        ("/videos?first=1&limit=2", service.videos(first=1, limit=2).to_dict()),
        (f"/videos?filters={quote('lang:en')}", service.videos("lang:en").to_dict()),
        (f"/videos/{name}", service.video(name).to_dict()),
        (f"/videos/{name}/transcript", service.transcript(name).to_dict()),
        ("/runs", service.runs().to_dict()),
        ("/status", service.status().to_dict()),
        ("/health", {"status": "ok"}),
    ):
        answer = site.get(path)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), path
        assert answer.document == document, path


def test_pages_of_hits_follow_each_other(site: Site) -> None:
    whole = site.get("/search?q=moment&k=10&per_video=2").document["hits"]
    pages = [site.get(f"/search?q=moment&k=4&per_video=2&first={first}").document["hits"] for first in (0, 4, 8)]
    assert [hit for page in pages for hit in page] == whole
    assert len(whole) > 4


def test_a_server_follows_its_library(site: Site, folder: Path) -> None:
    assert site.get("/status").document["videos"] == 5
    with writing(folder) as writer:
        add_video(writer, "new", [clip(visual=axis(7))])
        writer.publish()
    assert site.get("/status").document["videos"] == 6
    assert site.get("/search?q=7").document["hits"][0]["key"][0] == "new"


def test_several_libraries_are_one(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with SearchService(folder) as first, first.engine.library().snapshot() as snapshot:
        assert snapshot.generation() is not None
    with SearchService([folder, folder]) as service, serving(service) as site:
        assert site.get("/search?q=1").document["hits"][0]["key"][0] == "v1"
    with SearchService([folder, other]) as service, serving(service) as site:
        assert site.get("/search?q=1").error == (503, "LibraryNotFound")


def test_each_of_several_libraries_is_asked_by_its_place(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with writing(other) as writer:
        install(writer)
        add_video(writer, "w", [clip(visual=axis(7))])
        writer.catalog.begin_run("ingest")
    with SearchService([folder, other]) as service, serving(service) as site:
        assert site.get("/libraries").document == service.statuses().to_dict()
        second = SearchService(other)
        for path, document in (
            ("/status", second.status().to_dict()),
            ("/videos", second.videos().to_dict()),
            ("/runs", second.runs().to_dict()),
            ("/runs/latest", second.run(1).to_dict()),
            ("/runs/1", second.run(1).to_dict()),
        ):
            assert site.get(f"{path}?library=1").document == document, path
            assert site.get(f"{path}?library=2").error == (404, "NotFound")
        assert site.get("/status").document == site.get("/status?library=0").document == service.status().to_dict()
        assert site.get("/runs/latest").error == (404, "NotFound"), "the first has seen no run"


def test_the_newest_run_says_how_far_it_is(site: Site, folder: Path) -> None:
    with writing(folder) as writer:
        run = writer.catalog.begin_run("reindex")
        assert site.get("/runs/latest").document["progress"] is None
        writer.catalog.note_progress(run, {"done_files": 2, "total_files": 5, "done_s": 20.0, "total_s": 50.0})
        found = site.get("/runs/latest").document
        assert (found["id"], found["finished_at"], found["report"]) == (run, None, None)
        assert (found["progress"]["done_files"], found["progress"]["total_files"]) == (2, 5)
        writer.catalog.end_run(run, {"found": 5})
    found = site.get("/runs/latest").document
    assert (found["progress"], found["report"]) == (None, {"found": 5})


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, error",
    [
        ("/search", (400, "QueryError")),
        ("/search?q=%20", (400, "QueryError")),
        ("/search?q=x&page=2", (400, "UnknownParameter")),
        ("/search?q=x&q=y", (400, "WrongParameter")),
        ("/search?q=x&k=0", (400, "WrongParameter")),
        ("/search?q=x&k=1001", (400, "WrongParameter")),
        ("/search?q=x&k=1.5", (400, "WrongParameter")),
        ("/search?q=x&k=%D9%A3", (400, "WrongParameter")),
        ("/search?q=x&k=1000&first=1", (400, "WrongParameter")),
        ("/search?q=x&min_confidence=sure", (400, "WrongParameter")),
        ("/search?q=%ff", (400, "WrongParameter")),
        ("/search?q=x&like=v1", (400, "WrongParameter")),
        ("/search?q=x&like=v1:7", (400, "QueryError")),
        ("/search?" + "&".join(f"like=v1:{n}" for n in range(101)), (400, "WrongParameter")),
        ("/search?q=before:never", (400, "QueryError")),
        ("/similar", (400, "WrongParameter")),
        ("/similar?clip=v9:0", (400, "QueryError")),
        ("/videos?filters=dog", (400, "UsageError")),
        ("/videos/v9", (404, "NotFound")),
        ("/videos/v1/transcript?format=doc", (400, "WrongParameter")),
        ("/runs/77", (404, "NotFound")),
        ("/runs/last", (400, "WrongParameter")),
        ("/export", (400, "WrongParameter")),
        ("/export?format=csv", (400, "WrongParameter")),
        ("/export?format=csv&q=1&list=marks", (400, "WrongParameter")),
        ("/export?format=csv&list=none", (400, "QueryError")),
        ("/nothing", (404, "NotFound")),
        ("/health?x=1", (400, "UnknownParameter")),
    ],
)
def test_errors_have_one_form(site: Site, path: str, error: tuple[int, str]) -> None:
    answer = site.get(path)
    assert answer.error == error
    assert answer.headers["cache-control"] == "no-store"


def test_an_error_of_the_query_names_the_character(site: Site) -> None:
    with pytest.raises(QueryError) as raised:
        parse("dog before:never")
    answer = site.get(f"/search?q={quote('dog before:never')}").document["error"]
    assert answer == {"kind": "QueryError", "message": str(raised.value), "position": raised.value.position}


def test_a_method_that_a_path_lacks_is_refused(site: Site) -> None:
    assert site.post("/status", {}).error == (405, "MethodNotAllowed")
    assert site.ask("/api/v1/status", "PATCH").error == (405, "MethodNotAllowed")
    assert site.ask("/api/v1/status", "HEAD").status == 200


def test_a_bug_says_so_and_no_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SearchService) -> None:
        raise RuntimeError("the secret /home/me")

    monkeypatch.setattr(SearchService, "status", broken)
    answer = site.get("/status")
    assert answer.error == (500, "Bug")
    assert b"secret" not in answer.body
    assert answer.headers["x-content-type-options"] == "nosniff"


# --- caching --------------------------------------------------------------------------------------------------------


def test_an_answer_is_sent_once_until_the_library_changes(site: Site, folder: Path) -> None:
    first = site.get("/search?q=1")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    again = site.get("/search?q=1", if_none_match=f'"other", {tag}')
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert site.get("/search?q=2", if_none_match=tag).status == 200, "another question"
    with writing(folder) as writer:
        add_video(writer, "new", [clip(visual=axis(7))])
    changed = site.get("/search?q=1", if_none_match=tag)
    assert (changed.status, changed.headers["etag"] == tag) == (200, False)


# --- runs -----------------------------------------------------------------------------------------------------------


class Runs:
    """Starts nothing; the run ends when a test says so."""

    def __init__(self) -> None:
        self.run: StartedRun | None = None

    def start(self, command: RunCommand) -> StartedRun:
        if self.run is not None and self.run.exit_code is None:
            raise LibraryLocked("a run works")
        self.run = StartedRun(command, "2026-01-01T00:00:00+00:00", None, "")
        return self.run

    def state(self) -> StartedRun | None:
        return self.run


def test_clients_start_runs_where_they_may(site: Site, service: SearchService) -> None:
    assert site.post("/runs", {"command": "reindex"}).error == (403, "Forbidden")
    assert site.get("/runs/started").error == (404, "NotFound")
    with serving(service, tools=Tools(runs=(runs := Runs()))) as allowed:
        assert allowed.get("/runs/started").error == (404, "NotFound")
        for wrong in ("ingest", "remove", "reindex; rm", ""):
            assert allowed.post("/runs", {"command": wrong}).error == (400, "WrongParameter")
        started = allowed.post("/runs", {"command": "reindex"}).document
        assert started == allowed.get("/runs/started").document
        assert (started["command"], started["exit_code"]) == ("reindex", None)
        assert allowed.post("/runs", {"command": "retry"}).error == (409, "LibraryLocked")
        runs.run = StartedRun("reindex", started["started_at"], 0, "1 found")
        assert allowed.get("/runs/started").document["exit_code"] == 0
        assert allowed.post("/runs", {"command": "retry"}).status == 200


# --- exports --------------------------------------------------------------------------------------------------------


def test_an_export_is_a_file_to_save(site: Site, service: SearchService) -> None:
    answer = site.get("/export?format=csv&q=1&k=2")
    assert answer.body == service.export(service.search("1", top_k=2), "csv").data
    assert answer.headers["content-disposition"].startswith('attachment; filename="')
    site.post("/marks", {"clip": "v2:0", "list": "cut"})
    assert b"v2.mp4" in site.get("/export?format=m3u8&list=cut").body
    whole = service.export(service.video("v3"), "srt").data
    assert site.get("/export?format=srt&video=v3").body == whole
    assert site.get("/export?format=srt&video=v3&end_s=2").body != whole
    assert site.get("/export?format=srt&video=v3&end_s=0.021333333333333333").body != whole, "as JSON writes a double"
    assert site.get("/export?format=csv&video=v3&track=screen").error[0] == 400
    assert site.get("/export?format=mp4&video=v3&track=screen").error[0] == 400


def test_what_an_export_leaves_out_is_said(site: Site, folder: Path) -> None:
    site.post("/marks", {"clip": "v2:0", "list": "cut"})
    site.post("/marks", {"clip": "v3:0", "list": "cut"})
    path = os.fsencode(site.get("/videos/v3").document["video"])
    forget_path(folder, [path], RemovalSettings(lambda *_: ("", [])))
    answer = site.get("/export?format=csv&list=cut")
    assert answer.status == 200
    assert json.loads(unquote(answer.headers["vfindex-notes"])) != []


def test_a_cut_joins_moments(folder: Path) -> None:
    player = Cutter()
    with SearchService(folder, player=player) as service, serving(service) as site:
        site.post("/marks", {"clip": "v2:0", "list": "cut"})
        site.post("/marks", {"clip": "v1:5000", "list": "cut"})
        answer = site.get("/export?format=mp4&list=cut&exact=true")
        assert (answer.status, answer.body) == (200, b"headmedia")
        assert answer.headers["content-type"] == "video/mp4"
        assert player.asked == ([(b"v2.mp4", 0.0, 5.0), (b"v1.mp4", 5.0, 10.0)], True)
        assert "it is damaged" in unquote(answer.headers["vfindex-notes"])
        Path(os.fsdecode(service.file("v2").path)).unlink()
        answer = site.get("/export?format=mp4&list=cut")
        assert player.asked == ([(b"v1.mp4", 5.0, 10.0)], False)
        assert "v2.mp4 is not there" in unquote(answer.headers["vfindex-notes"])
        for asked, error in (("list=none", "QueryError"), ("list=cut&rate=25", "WrongParameter")):
            assert site.get(f"/export?format=mp4&{asked}").error == (400, error)
    with SearchService(folder) as service, serving(service) as site:
        assert site.get("/export?format=mp4&video=v1").error == (501, "NotHere")


def test_a_cut_that_is_refused_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> CutEnd:
        raise UsageError("these two do not go together")

    monkeypatch.setattr(Cutter, "cut", refused)
    with SearchService(folder, player=Cutter()) as service, serving(service) as site:
        answer = site.get("/export?format=mp4&video=v1")
        assert answer.error == (400, "UsageError")
        assert "these two do not go together" in answer.body.decode()


def test_many_notes_fit_into_a_header(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients refuse lines of more than 64 KiB, proxies answers whose headers have more than 4."""

    def early(_: Any, parts: Any, write: Any, **__: Any) -> CutEnd:
        write(0, b"media")
        return CutEnd(tuple((each.start_s - 1, each.end_s) for each in parts), 10.0, "it is damaged: " + "é" * 5000)

    monkeypatch.setattr(Cutter, "cut", early)
    with SearchService(folder, player=Cutter()) as service, serving(service) as site:
        site.post("/marks", {"clip": "v2:0", "list": "cut"})
        header = site.get("/export?format=mp4&list=cut").headers["vfindex-notes"]
    assert len(header) < 4000
    first, last = json.loads(unquote(header))
    assert "begins 1.0 s before its moment" in first and last == "1 further note left out"


class Cutter:
    """Writes the same cut of everything; notes what was asked for."""

    def __init__(self) -> None:
        self.asked: Any = None

    def cut(self, parts: Any, write: Any, *, exact: bool, timecode: str | None = None) -> CutEnd:
        self.asked = ([(os.path.basename(each.path), each.start_s, each.end_s) for each in parts], exact)
        write(4, b"media")
        write(0, b"head")
        return CutEnd(tuple((each.start_s, each.end_s) for each in parts), 10.0, "it is damaged")


def test_a_transcript_is_subtitles_too(site: Site, folder: Path) -> None:
    answer = site.get("/videos/v1/transcript?format=vtt")
    assert answer.headers["content-type"] == "text/vtt; charset=utf-8"
    assert answer.body.startswith(b"WEBVTT\n")
    assert b"<script>" not in answer.body
    with writing(folder) as writer:
        add_video(writer, "silent", [clip(visual=axis(7))])
    assert site.get("/videos/silent/transcript?format=vtt").body == b"WEBVTT\n"


def test_each_track_of_a_transcript_can_be_read(site: Site, folder: Path) -> None:
    with writing(folder) as writer:
        add_video(writer, "texts", [clip(visual=axis(7))], [*TEXTS])
    texts = {
        track: [each["text"] for each in site.get(f"/videos/texts/transcript{asked}").document["segments"]]
        for track, asked in {"": "", **{name: f"?track={name}" for name in timed_text_modalities()}}.items()
    }
    assert texts == {"": ["hello there"], "speech": ["hello there"], "screen": ["EXIT"], "text": ["Opening"]}
    for track in ("visual", "title", ""):
        assert site.get(f"/videos/texts/transcript?track={track}").error == (400, "WrongParameter")
    said, shown = (site.get(f"/videos/texts/transcript?format={f}").body.decode() for f in ("vtt", "srt&track=screen"))
    assert "<v Ann Lee>hello there" in said and "EXIT" not in said
    assert "00:00:02,000 --> 00:00:04,000\nEXIT" in shown and "hello" not in shown


# --- pictures -------------------------------------------------------------------------------------------------------


class Axis:
    """An image encoder whose vector is the axis that the red of a picture names."""

    size_px = 8

    def encode_images(self, frames: list[Pixels]) -> np.ndarray:
        return np.stack([axis(int(frame[0, 0, 0])) for frame in frames])


class Reader:
    """Reads a picture in this process; notes which libraries it was to prepare."""

    def __init__(self) -> None:
        self.prepared: list[SearchEngine] = []

    def prepare(self, engine: SearchEngine) -> None:
        self.prepared.append(engine)

    def read_picture(self, data: bytes, name: str, size_px: int) -> Pixels:
        if not data.startswith(b"\x89PNG"):
            raise QueryError(f"{name} is not a picture")
        return np.asarray(Image.open(io.BytesIO(data)).resize((size_px, size_px)))


def form(fields: dict[str, str], *files: bytes, name: str = "image") -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a form."""
    parts = [f'--b\r\ncontent-disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode() for n, v in fields.items()]
    head = f'--b\r\ncontent-disposition: form-data; name="{name}"; filename="../../etc/x.png"\r\n\r\n'.encode()
    body = b"".join([*parts, *(head + file + b"\r\n" for file in files), b"--b--\r\n"])
    return body, {"content-type": "multipart/form-data; boundary=b"}


def png(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_a_picture_is_a_question(service: SearchService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pictures, "_encoder", lambda self: Axis())
    with serving(service, tools=Tools(reader := Reader())) as site:
        found = site.ask("/api/v1/search", "POST", *form({"k": "2"}, png(3))).document
        assert found["hits"][0]["key"][0] == "v3"
        assert (found["images"], len(found["hits"])) == (["image 1"], 2)
        assert reader.prepared == service.engines
        assert site.ask("/api/v1/search", "POST", *form({"q": "2"})).document["hits"][0]["key"][0] == "v2"
        for body, error in (
            (form({"k": "2"}, b"no picture"), (400, "QueryError")),
            (form({"x": "2"}, png(3)), (400, "UnknownParameter")),
            (form({}, png(3), name="file"), (400, "UnknownParameter")),
            (form({}, *[png(3)] * 5), (400, "BadRequest")),
            (form({}), (400, "QueryError")),
        ):
            assert site.ask("/api/v1/search", "POST", *body).error == error
        assert site.post("/search", {"q": "2"}).error == (415, "WrongType")


def test_a_server_without_a_decoder_says_so(site: Site) -> None:
    assert site.ask("/api/v1/search", "POST", *form({}, png(3))).error == (501, "NotHere")
