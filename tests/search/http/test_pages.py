"""The pages as they are without JavaScript: what they show of the library, links and forms, and pages of errors."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from library_maker import TEXTS, add_video, axis, clip, install
from serving import BROWSER, Answer, Site, links, logged_in, page_of, serving, shown

from vfindex.search.http.settings import Settings, Tokens
from vfindex.search.service import SearchService
from vfindex.search.status import IndexInfo, IndexSegmentInfo, RecallInfo
from vfindex.storage.db.sources import Root, remember
from vfindex.storage.errors import Problem
from vfindex.storage.records import Location
from vfindex.storage.writer import writing

# --- searching ------------------------------------------------------------------------------------------------------


def test_without_a_question_there_are_examples_and_saved_ones(site: Site) -> None:
    site.post("/saved", {"name": "nightly <b>", "text": "number 3"})
    page = page_of(site, "/")
    assert "/?q=dog%20running%20in%20park" in links(page)
    assert "/?q=number%203" in links(page) and "nightly <b>" in shown(page)


def test_results_are_a_card_a_video_with_its_words(site: Site, service: SearchService) -> None:
    page = page_of(site, f"/?q={quote('number 2')}")
    hits = service.search("number 2", top_k=100)
    cards = re.findall(r'<li class="card" data-clip="([^":]*):\d+">', page)
    assert cards == [hit.key.fingerprint for hit in hits]
    assert "<mark>number</mark> <mark>2</mark>" in page
    assert 'value="number 2"' in page
    best = hits[0]
    moment = f"/videos/v2?clip={best.key.start_ms}&t={best.start_s}&end={best.end_s}&q=number%202"
    assert moment in links(page)


def test_two_moments_are_two_thumbnails(site: Site) -> None:
    page = page_of(site, f"/?q={quote('shown:2 then shown:2 within 20s')}")
    [pair] = re.findall('<a class="shot pair".*?</a>', page, re.S)[:1]
    assert len(re.findall("<img ", pair)) == 2


def test_a_wrong_question_shows_its_character(site: Site) -> None:
    page = page_of(site, f"/?q={quote('dog before:never <b>')}", 400)
    assert '<pre aria-hidden="true">dog before:<mark>n</mark>ever &lt;b&gt;</pre>' in page
    assert "aria-invalid" in page


def test_parts_of_a_question_are_links_without_them(site: Site) -> None:
    page = page_of(site, f"/?q={quote('number 2 lang:en')}&like=v1:0")
    assert "/?q=number+2&like=v1%3A0" in links(page)
    assert "/?q=number+2+lang%3Aen" in links(page)


def test_weak_hits_are_asked_for(site: Site, service: SearchService) -> None:
    assert "No confident match" in shown(page_of(site, f"/?q={quote('in:nowhere dog')}"))
    assert "weak hits too" in shown(page_of(site, "/?q=2&all"))


def test_further_results_are_a_link(site: Site, folder: Path) -> None:
    with writing(folder) as writer:
        for number in range(30):
            add_video(writer, f"more{number}", [clip(visual=axis(7))])
        writer.publish()
    first = page_of(site, "/?q=7")
    assert first.count('<li class="card"') == 24
    [more] = [each for each in links(first) if "first=" in each]
    second = page_of(site, more)
    cards = [re.findall('<li class="card" data-clip="([^"]*)"', page) for page in (first, second)]
    assert cards[1] and not set(cards[0]) & set(cards[1])


# --- a video --------------------------------------------------------------------------------------------------------


def test_a_video_has_each_text_and_its_speakers(site: Site, folder: Path) -> None:
    with writing(folder) as writer:
        add_video(writer, "texts", [clip(visual=axis(7))], [*TEXTS])
    page = page_of(site, "/videos/texts")
    said, rest = page.split('id="transcript"')[1].split("</ol>", 1)
    assert "Ann Lee: hello there" in shown(said) and "EXIT" not in said
    assert "Text on the picture" in rest and "0:02 EXIT" in shown(rest)
    assert "Opening" not in shown(rest), "a chapter is no text of the picture"
    assert "?t=1.0" in links(page)


def test_what_the_question_found_on_the_picture_is_framed(site: Site, folder: Path) -> None:
    with writing(folder) as writer:
        add_video(writer, "texts", [clip(visual=axis(7), speech=axis(7))], [*TEXTS])
        writer.publish()
    page = page_of(site, "/videos/texts?q=7%20hello&clip=0")
    assert "Ann Lee: hello there" in shown(page.split('<dl class="why">')[1])
    assert "<rect hidden" not in page, "what is said stands nowhere"


def test_a_moment_has_its_hit_and_those_of_the_video(site: Site, service: SearchService) -> None:
    page = page_of(site, "/videos/v2?clip=5000&t=5&end=10&q=2")
    assert 'data-start="5.0" data-end="10.0"' in page
    assert 'data-clip="v2:5000"' in page
    assert shown(page).count("Why") == 1
    assert re.findall(r'data-hit="([^"]*)" data-until="([^"]*)"', page) == [("0.0", "10.0")]
    bare = page_of(site, "/videos/v2?t=now&end=<b>&clip=x&q=before:never")
    assert 'data-start="0.0" data-end=""' in bare and "Why" not in shown(bare)


# --- marks ----------------------------------------------------------------------------------------------------------


def test_marks_are_shown_by_list_without_judgements(site: Site) -> None:
    site.post("/marks", {"clip": "v1:0", "list": "a & b", "note": "good"})
    site.post("/marks", {"clip": "v2:0"})
    site.post("/marks", {"clip": "v3:0", "list": "judgements", "question": "x", "grade": 0})
    page = page_of(site, f"/marks?list={quote('a & b')}")
    assert re.findall('data-clip="([^"]*)"', page) == ["v1:0"] and "good" in shown(page)
    assert {"?list=a%20%26%20b", "?list=marks"} <= set(links(page))
    assert "/api/v1/export?format=edl&list=a%20%26%20b" in links(page)
    assert "judgements" not in page
    assert "No marks in this list yet" in shown(page_of(site, "/marks?list=none"))


# --- the library ----------------------------------------------------------------------------------------------------


def test_the_library_page_has_what_is_there_and_what_failed(site: Site, folder: Path, films: Path) -> None:
    bad = Location(bytes(films / "<bad>.mp4"), 100, 1, 1)
    with writing(folder) as writer:
        remember(writer.catalog, [Root(bytes(films))])
        writer.catalog.fail_video("bad", bad, Problem(bad.path, "decode", "damaged", "it is <torn>", "copy it again"))
        writer.catalog.end_run(writer.catalog.begin_run("ingest"), {"found": 6, "indexed": 5, "wall_s": 90.0})
        run = writer.catalog.begin_run("reindex")
        writer.catalog.note_progress(run, {"done_files": 2, "total_files": 5, "done_s": 20.0, "total_s": 50.0})
    page = page_of(site, "/library")
    text = shown(page)
    assert f'?filters=in:"{films}"' in unquote(" ".join(links(page)))
    assert "<bad>.mp4" in text and "it is <torn>" in text and "copy it again" in text
    assert '<progress max="5" value="2"' in page and "reindex: 2 of 5 files" in text
    assert "5 indexed of 6 found, 1:30" in text
    assert re.search(r"library\.db \d+ kB", text) and "library.json" in text
    assert sorted(re.findall('href="(/videos/[^"]*)"', page)) == [f"/videos/v{number}" for number in range(5)]
    assert 'data-run="reindex"' not in page, "no client may start a run here"


def test_the_library_page_says_what_its_index_finds(
    site: Site, service: SearchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = RecallInfo(0.97, 80, 0.9, 0.81, 0.95, "2026-11-02", "2026-11-28", (), None, True, "rebuild <it>", 3, True)
    segments = (IndexSegmentInfo(180, 20, 10**6, "tuned"), IndexSegmentInfo(20, 0, 10**5, "exact"))
    index = IndexInfo("built-in", segments, 200, 20, 1_100_000, 1, 200, low)
    status = replace(service.status(), index=index)
    monkeypatch.setattr(SearchService, "status", lambda _: status)
    text = shown(page_of(site, "/library"))
    assert "index: 2 segments, 9.1% deleted, 1 to be merged; it finds 90.0% (81% to 95%)" in text
    assert "of 80 questions asked from 2026-11-02 to 2026-11-28" in text
    assert "The index finds less than 97% of the best clips: rebuild <it>" in text


def test_the_videos_of_a_library_are_listed_by_filters(site: Site, films: Path) -> None:
    assert len(re.findall('href="/videos/', page_of(site, "/library?filters=lang:en"))) == 5
    only = page_of(site, f"/library?filters={quote(f'in:{films}/v1.mp4')}")
    assert re.findall('href="(/videos/[^"]*)"', only) == ["/videos/v1"]
    wrong = page_of(site, "/library?filters=dog&first=x")
    assert "list takes filters only" in shown(wrong)


def test_each_of_several_libraries_has_its_page(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with writing(other) as writer:
        install(writer)
        add_video(writer, "w", [clip(visual=axis(7))])
        remember(writer.catalog, [Root(b"/videos")])
    with SearchService([folder, other]) as service, serving(service) as site:
        first, second = page_of(site, "/library"), page_of(site, "/library?library=1")
        check_error(site.ask("/library?library=2", headers=BROWSER), 404, "there is no library 2")
    assert {"?library=0", "?library=1"} <= set(links(first)) & set(links(second))
    assert "/videos/v1" in links(first) and "/videos/w" not in links(first)
    assert "/videos/w" in links(second) and "/videos/v1" not in links(second)
    assert '?library=1&filters=in:"/videos"' in unquote(" ".join(links(second)))
    assert 'data-library="1"' in second


# --- errors ---------------------------------------------------------------------------------------------------------


def check_error(answer: Answer, status: int, words: str) -> None:
    """An error is a page of the server, with its headers, that is not kept."""
    assert (answer.status, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert words in shown(answer.body.decode())


def test_a_browser_gets_a_page_of_an_error(site: Site) -> None:
    check_error(site.ask("/videos/none", headers=BROWSER), 404, "the library has no video with this fingerprint")
    check_error(site.ask("/videos/..%2fx", headers=BROWSER), 404, "Not here")
    check_error(site.ask("/nothing", headers=BROWSER), 404, "there is nothing at this address")
    crossing = {**BROWSER, "sec-fetch-site": "cross-site"}
    check_error(site.ask("/logout", "POST", b"", crossing), 403, "a page of another site made this request")
    check_error(site.ask("/", headers={**BROWSER, "host": "evil.example"}), 421, "does not answer to that name")
    check_error(site.ask("/library", "POST", b"", BROWSER), 405, "does not take that method")
    check_error(site.ask("/", headers={**BROWSER, "x-a": "a" * 20_000}), 431, "more than")


def test_programs_get_json_of_an_error(site: Site) -> None:
    assert site.ask("/nothing", headers={"accept": "*/*"}).error == (404, "NotFound")
    assert site.ask("/videos/none").error == (404, "NotFound")
    assert site.ask("/api/v1/videos/none", headers=BROWSER).error == (404, "NotFound")
    assert site.ask("/api/v1/nothing", headers=BROWSER).error == (404, "NotFound")


def test_a_library_that_is_gone_is_said_on_the_page(site: Site, folder: Path, service: SearchService) -> None:
    service.close()
    shutil.rmtree(folder)
    answer = site.ask("/library", headers=BROWSER)
    check_error(answer, 503, "Not now")
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("root", ["", "/films"])
def test_a_bug_is_a_page_without_its_reason(service: SearchService, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SearchService, *_: object) -> None:
        raise RuntimeError("the secret /home/me")

    monkeypatch.setattr(SearchService, "marks", broken)
    with serving(service, Settings(root_path=root)) as site:
        answer = site.ask(f"{root}/marks", headers=BROWSER)
    check_error(answer, 500, "this is a bug of vfindex")
    assert b"secret" not in answer.body and b"Traceback" not in answer.body
    assert f'href="{root}/static/page.css"'.encode() in answer.body


def test_an_error_shows_nothing_to_those_who_may_not_ask(service: SearchService) -> None:
    tokens = Tokens("w" * 32, "r" * 32)
    with serving(service, Settings(tokens=tokens)) as site:
        for path in ("/videos/v1", "/videos/none", "/nothing"):
            assert "Log in" in page_of(site, path, 401)
        reader = logged_in(site, str(tokens.read))
        assert "data-may-write" not in page_of(reader, "/marks")
        assert "data-may-write" in page_of(logged_in(site, tokens.write), "/marks")


@pytest.mark.parametrize(("given", "shown"), [("5.033333333333333", "5.033333333333333"), ("1e1", "0.0"), ("x", "0.0")])
def test_a_page_begins_at_the_time_of_its_address(site: Site, given: str, shown: str) -> None:
    assert f'data-start="{shown}"'.encode() in site.ask(f"/videos/v1?t={given}").body


def test_scripts_are_asked_for_each_time(site: Site) -> None:
    for name in ("page.js", "player.js", "correct.js", "page.css"):
        answer = site.ask(f"/static/{name}")
        assert answer.headers["cache-control"] == "no-cache", "a newer page needs its own scripts"
        known = {"if-none-match": answer.headers["etag"]}
        again = site.ask(f"/static/{name}", headers=known)
        assert (again.status, again.headers["cache-control"]) == (304, "no-cache")
