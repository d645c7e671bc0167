"""What people write over HTTP: marks, lists and saved questions."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from library_maker import add_video, axis, clip, install
from serving import Site, serving

from vfindex.search.service import SearchService
from vfindex.storage.writer import writing


def test_marks_are_made_listed_and_deleted(site: Site, service: SearchService) -> None:
    made = site.post("/marks", {"clip": ["v1", 5000], "list": "cut", "note": "good"}).document
    assert made["key"] == ["v1", 5000]
    assert service.marks().to_dict() == {"marks": [made]} == site.get("/marks?list=cut").document
    changed = site.post("/marks", {"clip": "v1:5000", "list": "cut", "by": made["by"]}).document
    assert (changed["id"], changed["note"]) == (made["id"], "good")
    judged = site.post("/marks", {"clip": "v2:0", "question": "two", "grade": 3}).document
    assert site.get("/lists").document == {"lists": [{"name": "cut", "marks": 1}, {"name": "marks", "marks": 1}]}
    assert site.get("/marks?question=two").document["marks"] == [judged]
    assert site.ask(f"/api/v1/marks/{made['id']}", "DELETE").document == {"marks": [changed]}
    assert site.ask(f"/api/v1/marks/{made['id']}", "DELETE").error == (404, "NotFound")
    assert site.get("/marks").document == {"marks": [judged]}


def test_lists_are_renamed_and_deleted(site: Site) -> None:
    for clip_, list_ in (("v1:0", "a/b ?"), ("v2:0", "a/b ?"), ("v1:0", "other")):
        site.post("/marks", {"clip": clip_, "list": list_, "note": "n"})
    before = site.get("/marks").document["marks"]
    renamed = site.post("/lists", {"name": "a/b ?", "new_name": "cut"}).document
    assert renamed == {"lists": [{"name": "cut", "marks": 2}, {"name": "other", "marks": 1}]}
    assert renamed == site.get("/lists").document
    lists = ["cut", "cut", "other"]
    assert site.get("/marks").document["marks"] == [{**m, "list": name} for m, name in zip(before, lists, strict=True)]
    assert site.post("/lists", {"name": "cut", "new_name": "other"}).error == (400, "UsageError")
    assert site.post("/lists", {"name": "cut", "new_name": " "}).error == (400, "UsageError")
    assert site.post("/lists", {"name": "none", "new_name": "x"}).error == (404, "NotFound")
    deleted = site.ask("/api/v1/lists?name=cut", "DELETE").document["marks"]
    assert [mark["key"] for mark in deleted] == [["v1", 0], ["v2", 0]]
    assert site.get("/lists").document == {"lists": [{"name": "other", "marks": 1}]}
    assert site.ask("/api/v1/lists?name=cut", "DELETE").error == (404, "NotFound")


def test_a_list_has_the_marks_of_all_libraries(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with writing(other) as writer:
        install(writer)
        add_video(writer, "w", [clip(visual=axis(7))])
    with SearchService([folder, other]) as service, serving(service) as site:
        made = [site.post("/marks", {"clip": each, "list": "cut"}).document for each in ("v1:0", "w:0")]
        assert [mark["id"] for mark in made] == [1, 1], "each library counts its own"
        assert sorted(mark["presence"] for mark in site.get("/marks?list=cut").document["marks"]) == ["present"] * 2
        assert b"/videos/w" in site.get("/export?format=csv&list=cut").body
        assert site.post("/lists", {"name": "cut", "new_name": "c"}).document == {"lists": [{"name": "c", "marks": 2}]}
        assert site.ask("/api/v1/marks/1?video=v2", "DELETE").error == (404, "NotFound")
        [gone] = site.ask("/api/v1/marks/1?video=w", "DELETE").document["marks"]
        assert gone["key"] == ["w", 0]
        assert [mark["key"] for mark in site.get("/marks").document["marks"]] == [["v1", 0]]
        assert len(site.ask("/api/v1/lists?name=c", "DELETE").document["marks"]) == 1
        assert site.get("/lists").document == {"lists": []}


def test_questions_are_saved_and_deleted(site: Site) -> None:
    made = site.post("/saved", {"name": "a/b ?", "text": "dog then cat"}).document
    assert site.get("/saved").document == {"saved": [made]}
    assert site.post("/saved", {"name": "a/b ?", "text": "cat"}).error == (400, "UsageError")
    assert site.post("/saved", {"name": "x", "text": "before:never"}).error == (400, "QueryError")
    assert site.ask(f"/api/v1/saved?name={quote('a/b ?')}", "DELETE").document == made
    assert site.ask(f"/api/v1/saved?name={quote('a/b ?')}", "DELETE").error == (404, "NotFound")


@pytest.mark.parametrize(
    "body, error",
    [
        (b"", "WrongBody"),
        (b"[]", "WrongBody"),
        (b'{"clip": ', "WrongBody"),
        (b"[" * 5000, "WrongBody"),
        (b'{"clip": "v1:0", "by": null, "colour": "red"}', "UnknownParameter"),
        (b'{"clip": "/videos/v1@0"}', "WrongParameter"),
        (b'{"clip": ["v1", "0"]}', "WrongParameter"),
        (b'{"clip": "v1:0", "grade": true, "question": "x"}', "WrongParameter"),
        (b'{"clip": "v1:0", "grade": 9, "question": "x"}', "WrongParameter"),
        (b'{"clip": "v1:0", "note": 5}', "WrongParameter"),
        (b'{"note": "no clip"}', "WrongParameter"),
        (b'{"clip": "v9:0"}', "QueryError"),
    ],
)
def test_wrong_bodies_are_refused(site: Site, body: bytes, error: str) -> None:
    answer = site.ask("/api/v1/marks", "POST", body, {"content-type": "application/json"})
    assert answer.error == (400, error)


def test_a_body_that_is_no_json_is_refused(site: Site) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = site.ask("/api/v1/marks", "POST", b'{"clip": "v1:0"}', {"content-type": kind})
        assert answer.error == (415, "WrongType")
    assert site.get("/marks").document == {"marks": []}
