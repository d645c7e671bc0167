"""Corrections over HTTP: made, shown in every answer at once, undone, and refused to those who may not write."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from serving import SCRIPT, Site, logged_in, serving

from vfindex.search.http.settings import Settings, Tokens
from vfindex.search.service import SearchService
from vfindex.storage.writer import writing

RIGHT = "weather in Bergen <b>&amp;"


def line(number: int = 1, **changed: Any) -> dict[str, Any]:
    """Return what corrects the line of a video."""
    original = f"number {number} {SCRIPT}"
    asked = {"video": f"v{number}", "track": "speech", "start_s": 1, "end_s": 3, "original": original, "text": RIGHT}
    return {name: value for name, value in (asked | changed).items() if value is not None}


def test_a_correction_is_made_listed_replaced_and_undone(site: Site, service: SearchService) -> None:
    made = site.post("/corrections", line(by="ana")).document
    assert (made["id"], made["text"], made["state"], made["by"]) == (1, RIGHT, "applied", "ana")
    assert (made["fingerprint"], made["track"], made["start_s"], made["end_s"]) == ("v1", "speech", 1.0, 3.0)
    assert site.get("/corrections").document == {"corrections": [made]} == service.corrections().to_dict()
    assert site.get("/corrections?video=v2").document == {"corrections": []}
    assert site.get("/corrections?video=v1").headers["cache-control"] == "no-store"
    changed = site.post("/corrections", line(text="sunny")).document
    assert (changed["id"], changed["text"]) == (1, "sunny")
    assert site.ask("/api/v1/corrections/1?video=v1", "DELETE").document == {"corrections": [changed]}
    assert site.ask("/api/v1/corrections/1", "DELETE").error == (404, "NotFound")
    assert site.get("/corrections").document == {"corrections": []}


def test_every_answer_has_it_at_once_and_no_cache_the_old_one(site: Site) -> None:
    paths = (
        *(
            "/videos/v1/transcript",
            "/videos/v1/transcript?format=srt",
            "/videos/v1/transcript?format=vtt",
            "/videos/v1",
        ),
        "/search?q=said:weather&min_confidence=none",
    )
    before = {path: site.get(path) for path in paths}
    assert not any(b"Bergen" in answer.body for answer in before.values())
    site.post("/corrections", line())
    for path in paths:
        answer = site.get(path, if_none_match=before[path].headers["etag"])
        assert answer.status == 200 and b"Bergen" in answer.body, path
        assert site.get(path, if_none_match=answer.headers["etag"]).status == 304
    assert site.get("/search?q=said:weather").document["hits"][0]["key"][0] == "v1"
    assert b"Bergen" in site.get("/export?format=srt&video=v1").body
    assert not [hit for hit in site.get("/search?q=said:alert&per_video=2").document["hits"] if hit["key"][0] == "v1"]
    site.ask("/api/v1/corrections/1", "DELETE")
    for path in paths:
        assert site.get(path).body == before[path].body, "as it was"


def test_a_correction_that_was_not_shown_is_not_replaced(site: Site) -> None:
    seen = f"number 1 {SCRIPT}"
    site.post("/corrections", line(text="by ana", by="ana", shown=seen))
    refused = site.post("/corrections", line(text="by ben", shown=seen))
    assert refused.error == (409, "EditConflict") and "ana corrected" in refused.document["error"]["message"]
    assert site.post("/corrections", line(text="by ben", shown="by ana")).document["text"] == "by ben"
    refused = site.ask("/api/v1/corrections/1?video=v1&shown=by+ana", "DELETE")
    assert refused.error == (409, "EditConflict")
    assert "it reads: by ben; undo again to delete that" in refused.document["error"]["message"]
    assert len(site.get("/corrections").document["corrections"]) == 1
    assert site.ask("/api/v1/corrections/1?video=v1&shown=by+ben", "DELETE").status == 200


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_line_that_nobody_said_is_in_no_text_and_can_come_back(site: Site, folder: Path, text: str) -> None:
    def found(words: str) -> list[str]:
        hits = site.get(f"/search?q=said:{words}&min_confidence=none").document["hits"]
        return [hit["key"][0] for hit in hits if hit["words"]]

    before = {path: site.get(path).body for path in ("/videos/v1/transcript", "/export?format=csv&video=v1&end_s=4")}
    assert "v1" in found("alert") and b"number 1" in site.get("/export?format=srt&video=v1").body
    made = site.post("/corrections", line(text=text)).document
    assert (made["text"], made["state"]) == ("", "applied")
    [segment] = site.get("/videos/v1/transcript").document["segments"]
    assert (segment["text"], segment["original"]) == ("", f"number 1 {SCRIPT}")
    assert "v1" not in found("alert") and "v2" in found("alert")
    for kind in ("srt", "vtt"):
        assert b"-->" not in site.get(f"/videos/v1/transcript?format={kind}").body
    assert all("number" not in str(hit["snippet"]) for hit in site.get("/search?q=1&k=1").document["hits"])
    page = site.ask("/videos/v1").body.decode()
    assert '<span class="text"></span>' in page and "before:" in page
    site.ask("/api/v1/corrections/1?video=v1", "DELETE")
    assert {path: site.get(path).body for path in before} == before


def test_an_empty_line_is_taken_up_by_a_transcript_without_it(site: Site, folder: Path) -> None:
    site.post("/corrections", line(text=""))
    for change, state in (("text = 'another'", "stale"), ("start_s = 1.5", "taken_up")):
        with writing(folder) as writer, writer.catalog.transaction() as connection:
            connection.exec_driver_sql(
                f"UPDATE segment SET {change} WHERE video_id = (SELECT id FROM video WHERE fingerprint = 'v1')"
            )
        assert [each["state"] for each in site.get("/corrections").document["corrections"]] == [state]


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (line(text="x" * 2001), (400, "UsageError")),
        (line(text="bell \x07"), (400, "UsageError")),
        (line(text="lone \ud800"), (400, "UsageError")),
        (line(text=None), (400, "WrongParameter")),
        (line(text=7), (400, "WrongParameter")),
        (line(original="another text"), (400, "UsageError")),
        (line(original=None), (400, "WrongParameter")),
        (line(end_s=3.002), (400, "UsageError")),
        (line(end_s=1e12), (400, "WrongParameter")),
        (line(start_s="1"), (400, "WrongParameter")),
        (line(track="text"), (400, "WrongParameter")),
        (line(track="visual"), (400, "WrongParameter")),
        (line(video="nothing"), (404, "NotFound")),
        (line(video="../v1"), (400, "WrongParameter")),
        (line(note="x"), (400, "UnknownParameter")),
    ],
)
def test_what_cannot_be_corrected_is_refused(
    site: Site, folder: Path, document: dict[str, Any], error: tuple[int, str]
) -> None:
    assert site.post("/corrections", document).error == error
    assert not (folder / "user.db").exists()


def test_only_who_may_write_corrects(service: SearchService) -> None:
    settings = Settings(tokens=Tokens(write="w" * 32, read="r" * 32))
    with serving(service, settings) as site:
        reader, writer = logged_in(site, "r" * 32), logged_in(site, "w" * 32)
        assert site.post("/corrections", line()).error == (401, "Unauthorized")
        assert reader.post("/corrections", line()).error == (403, "Forbidden")
        assert writer.post("/corrections", line()).status == 200
        assert reader.ask("/api/v1/corrections/1", "DELETE").error == (403, "Forbidden")
        assert len(reader.get("/corrections").document["corrections"]) == 1
        assert "data-may-write" in writer.ask("/videos/v1").body.decode()
        assert "data-may-write" not in reader.ask("/videos/v1").body.decode()


def test_another_site_corrects_nothing(site: Site) -> None:
    assert site.post("/corrections", line(), sec_fetch_site="cross-site").error == (403, "CrossSite")
    assert site.post("/corrections", line(), origin="https://evil.example").error == (403, "CrossSite")
    assert site.get("/corrections").document == {"corrections": []}


def test_the_page_shows_both_texts_as_text(site: Site, folder: Path) -> None:
    hostile = f"right {SCRIPT}"
    site.post("/corrections", line(text=hostile, by=SCRIPT))
    page = site.ask("/videos/v1").body.decode()
    assert SCRIPT not in page
    lines = page.split('id="transcript"')[1].split("</ol>")[0]
    texts = [" ".join(unescape(re.sub("<[^>]*>", " ", each)).split()) for each in lines.split("<li>")[1:]]
    assert texts[0].startswith(f"0:01 {hostile}") and f"number 1 {SCRIPT}" in texts[0]
    with writing(folder) as writer:  # the video is indexed again, and says nothing
        [found] = [each for each in writer.library.snapshot().videos() if each.fingerprint == "v1"]
        with writer.catalog.transaction() as connection:
            connection.exec_driver_sql("DELETE FROM document WHERE video_id = ?", (found.id,))
            connection.exec_driver_sql("DELETE FROM segment WHERE video_id = ?", (found.id,))
    page = site.ask("/videos/v1").body.decode()
    stale = unescape(page.split('class="stale"')[1].split("</details>")[0])
    assert hostile in stale and f"number 1 {SCRIPT}" in stale and SCRIPT not in page


def test_a_damaged_file_takes_no_page_away(site: Site, folder: Path) -> None:
    site.post("/corrections", line())
    (folder / "user.db").write_bytes(b"no database" * 1000)
    assert site.get("/corrections").error == (503, "LibraryDamaged")
    assert "number 1" in site.ask("/videos/v1").body.decode()
    assert site.get("/search?q=1").document["hits"]
