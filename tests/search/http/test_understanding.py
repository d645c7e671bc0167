"""Tasks beyond one search over HTTP: the documents of the service, their limits, and that they write nothing."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from asking import calibrated_speech, labelled
from library_maker import video
from serving import Site, serving

from vfindex.search.engine import SearchEngine
from vfindex.search.http.settings import Limits, Settings
from vfindex.search.service import SearchService
from vfindex.search.understanding.watch import Watches
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.records import UnitPlan
from vfindex.storage.user.records import Moment, NewHit
from vfindex.storage.user.watches import WatchData
from vfindex.storage.writer import writing

ENTRY = "{http://www.w3.org/2005/Atom}entry"


def test_documents_are_those_of_the_service(site: Site, service: SearchService) -> None:
    for path, found in (
        ("/videos/v1/chapters?detect=true", service.chapters("v1", detect=True)),
        ("/videos/v1/digest?length_s=5&words=10", service.digest("v1", length_s=5.0, words=10)),
        ("/ask?q=number&all=true&k=2", service.ask("number", show_all=True, top_k=2)),
        ("/unusual?k=2&method=lof", service.unusual(method="lof", top_k=2)),
        ("/duplicates?limit=1", service.duplicates()),
    ):
        assert site.get(path).document == found.to_dict(), path


def test_labels_are_counted_and_filter_a_search(site: Site, folder: Path) -> None:
    assert site.get("/labels").document == {"labels": []}
    labelled(folder)
    [found] = site.get("/labels").document["labels"]
    assert found == {"classes": "kinds", "name": "at sea", "videos": 2, "clips": 2, "label": "at sea"}
    assert site.get("/labels?filters=in:nowhere").document == {"labels": []}
    hits = site.get("/search?q=number+label:%22at+sea%22&k=9&per_video=9").document
    assert {tuple(hit["key"]) for hit in hits["hits"]} == {("v0", 0), ("v1", 0)} and hits["labels"] == {"at sea": 2}


def test_an_answer_quotes_and_says_where(site: Site, folder: Path) -> None:
    calibrated_speech(folder)
    found = site.get("/ask?q=number+2").document
    assert found["says"] is True and found["moments"][0]["quotations"][0]["text"].startswith("number 2 ")
    found = site.get("/ask?q=zebra").document
    assert (found["says"], found["reason"], found["moments"]) == (False, "the library does not say", [])
    assert site.get("/ask?q=%20").error == (400, "QueryError")
    assert site.get("/ask?q=number&video=v9").error == (404, "NotFound")


def test_marks_that_are_given_move_a_question_and_are_not_kept(site: Site) -> None:
    plain = site.get("/search?q=1&k=5").document
    moved = site.get("/search?q=1&k=5&relevant=v3:0&rejected=v0:0").document
    assert "feedback" not in plain
    assert (moved["feedback"]["judged"], moved["feedback"]["used"]) == (2, 2)
    before, now = ({hit["key"][0]: hit["score"] for hit in each["hits"]} for each in (plain, moved))
    assert now["v3"] > before.get("v3", 0.0)
    assert site.get("/marks").document["marks"] == []


def test_clips_of_a_video_are_read_once_for_all_judgements(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, clips_of = list[int](), Snapshot.clips_of

    def counted(self: Snapshot, video_id: int) -> Any:
        reads.append(video_id)
        return clips_of(self, video_id)

    monkeypatch.setattr(Snapshot, "clips_of", counted)
    clips = "&relevant=v3:0&relevant=v3:5000&rejected=v3:0&rejected=v3:7&rejected=gone:0"
    assert site.get(f"/search?q=1{clips}").document["feedback"]["used"] == 2
    assert len(reads) == len(set(reads))


def test_judgements_that_are_kept_move_a_question_if_asked(site: Site) -> None:
    site.post("/marks", {"clip": "v3:0", "list": "judgements", "question": "1", "grade": 2})
    assert "feedback" not in site.get("/search?q=1").document
    assert site.get("/search?q=1&feedback=true").document["feedback"]["used"] == 1


def test_hits_that_kept_judgements_move_are_asked_anew(site: Site) -> None:
    first = site.get("/search?q=1&feedback=true")
    site.post("/marks", {"clip": "v3:0", "list": "judgements", "question": "1", "grade": 2})
    known = {"if_none_match": first.headers["etag"]} if first.headers["etag"] else {}
    assert site.get("/search?q=1&feedback=true", **known).document["feedback"]["used"] == 1
    assert first.headers["cache-control"] == "no-store"


def test_news_is_read_and_stays_news(site: Site, folder: Path) -> None:
    assert site.get("/watches").document == {"watches": []}
    watches = Watches(SearchEngine(folder))
    watches.add("third", 'said:"number 3"')
    data = WatchData.open(folder)
    data.keep(data.watches()[0], [NewHit(Moment("v3", 0, 5000), 0.5, "", False)])
    [watch] = site.get("/watches").document["watches"]
    assert (watch["name"], watch["new"]) == ("third", 1)
    for _ in range(2):
        [item] = site.get("/watches/news?new=true").document["news"]
        assert (item["fingerprint"], item["key"], item["told_at"]) == ("v3", ["v3", 0], "")
    answer = site.get("/watches/feed")
    assert answer.headers["content-type"].startswith("application/atom+xml")
    [entry] = ElementTree.fromstring(answer.body).findall(ENTRY)
    [link] = entry.findall("{http://www.w3.org/2005/Atom}link")
    assert link.get("href") == f"http://127.0.0.1:{site.port}/videos/v3?t=0.000"
    watches.tell(watches.items())
    assert site.get("/watches/news?new=true").document["news"] == []
    assert len(site.get("/watches/news").document["news"]) == 1


def test_a_task_that_is_late_says_so(service: SearchService) -> None:
    with serving(service, Settings(limits=Limits(task_s=0.0))) as hasty:
        late = hasty.get("/duplicates")
        assert late.error == (503, "QueryTimeout") and "comparing videos reached its time limit" in late.body.decode()
        assert hasty.get("/labels").status == 200


def test_a_task_ends_with_its_client(site: Site, service: SearchService, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(filters: str, *, progress: Any) -> Any:
        begun.set()
        try:
            while True:
                progress(0, 1)
                time.sleep(0.01)
        finally:
            ended.set()

    monkeypatch.setattr(SearchService, "duplicates", lambda self, *given, **options: endless(*given, **options))
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.sendall(b"GET /api/v1/duplicates HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % site.port)
        assert begun.wait(60)
    assert ended.wait(60)


def test_a_video_without_clips_has_no_chapters(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfindex.storage.db.reader.Snapshot.clips_of", lambda *_: [])
    for path in ("/videos/v1/chapters?detect=true", "/videos/v1/digest"):
        answer = site.get(path)
        assert answer.error == (404, "NotFound") and "has no clips" in answer.body.decode()


def test_a_video_that_is_not_indexed_answers_nothing(site: Site, folder: Path) -> None:
    with writing(folder) as writer:
        writer.catalog.begin_video(video("later"), [UnitPlan(0)], recognised=True)
    answer = site.get("/ask?q=number&video=later")
    assert answer.error == (404, "NotFound") and "is not fully indexed" in answer.body.decode()
    assert answer.headers["retry-after"] is None, "it may take until the next run"
