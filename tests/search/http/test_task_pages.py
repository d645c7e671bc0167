"""The pages of tasks beyond one search, without JavaScript: quotations, findings, labels, and ranking by judgements."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from asking import calibrated_speech, labelled
from serving import Site, check_page, links, page_of, serving, shown

from vfindex.search.engine import SearchEngine
from vfindex.search.http.settings import Limits, Settings
from vfindex.search.service import SearchService
from vfindex.search.understanding.watch import Watches
from vfindex.storage.user.records import Moment, NewHit
from vfindex.storage.user.watches import WatchData


def test_an_answer_is_quotations_with_times_and_sources(site: Site, folder: Path) -> None:
    calibrated_speech(folder)
    page = page_of(site, "/ask?q=number+2")
    check_page(page.encode())
    first = page[page.index('class="answer"') :]
    assert "<mark>number</mark> <mark>2</mark>" in first and "&lt;script&gt;" in first
    assert "/videos/v2?t=1.0&end=3.0" in links(first)
    assert "0:01 speech, recognised" in shown(first)
    assert "/?q=number%202" in links(page), "the same question, for moments"
    none = page_of(site, "/ask?q=zebra")
    assert "The library does not say" in shown(none) and 'class="answer"' not in none
    assert "/ask?q=zebra&all=1" in links(none)
    assert "<blockquote" in page_of(site, "/ask?q=zebra&all=1")


def test_a_library_that_cannot_tell_says_why(site: Site) -> None:
    page = shown(page_of(site, "/ask?q=zebra"))
    reason = "no answer is better than chance here: the scores of this library are not calibrated"
    assert f"This library cannot tell {reason}" in page


def test_labels_narrow_a_question_and_are_hidden_without_any(site: Site, folder: Path) -> None:
    assert "Labels of these" not in page_of(site, "/?q=number&all=1") + page_of(site, "/library")
    labelled(folder)
    page = page_of(site, "/?q=number&all=1")
    [chip] = re.findall(r'aria-label="Labels of these moments">\s*<li class="chip"><a href="([^"]*)">([^<]*)<', page)
    assert chip[1] == "at sea (2)" and "label%3A%22at+sea%22" in chip[0]
    narrowed = page_of(site, chip[0].replace("&amp;", "&"))
    assert len(re.findall('<li class="card"', narrowed)) == 2 and "Labels of these" not in narrowed
    assert "at sea (2)" in shown(page_of(site, "/library"))


def test_labels_of_two_sets_are_named_with_their_set(site: Site, folder: Path) -> None:
    labelled(folder)
    labelled(folder, "more", 1)
    page = page_of(site, "/library")
    chips = re.findall(r'aria-label="Labels of these videos">(.*?)</ul>', page, re.DOTALL)[0]
    assert re.findall(r'filters=([^"]*)">([^<]*)<', chips) == [
        ("label%3A%22kinds/at%20sea%22", "kinds/at sea (2)"),
        ("label%3A%22more/at%20sea%22", "more/at sea (1)"),
    ]


def test_judgements_rank_anew_say_what_moved_and_can_be_left_out(site: Site) -> None:
    plain = page_of(site, "/?q=1&all=1")
    assert "/?q=1&all=1&feedback=1" in links(plain)
    nobody = page_of(site, "/?q=1&all=1&feedback=1")
    assert "Nobody has judged a hit of this question yet" in shown(nobody) and 'class="moved"' not in nobody
    site.post("/marks", {"clip": "v3:0", "list": "judgements", "question": "1", "grade": 2})
    page = page_of(site, "/?q=1&all=1&feedback=1")
    before, after = (re.findall(r'<li class="card" data-clip="([^":]*):', each) for each in (plain, page))
    said = re.findall(r'<span class="moved">([^<]*)<', page)
    expected = [before.index(name) - place for place, name in enumerate(after)]
    assert [
        int(each.split()[1]) * (1 if "up" in each else -1) if each != "as before" else 0 for each in said
    ] == expected
    assert "1 judgement moved the question: visual 0." in shown(page)
    assert links(page).count("/?q=1&all=1") == 2, "the chip, and the sentence"


def test_findings_have_news_and_compare_on_demand(site: Site, folder: Path) -> None:
    page = shown(page_of(site, "/findings"))
    assert "No question is watched" in page and "compared" not in page
    Watches(SearchEngine(folder)).add("third", 'said:"number 3"')
    data = WatchData.open(folder)
    data.keep(data.watches()[0], [NewHit(Moment("v3", 0, 5000), 0.5, "", False)])
    page = page_of(site, "/findings")
    assert "third 1 found, 1 new" in shown(page) and "/videos/v3?t=0.0&end=5.0" in links(page)
    unusual = page_of(site, "/findings?show=unusual&filters=longer:5s")
    assert "10 clips compared with 10; none stands out, not better than chance here" in shown(unusual)
    assert 'value="longer:5s"' in unusual and unusual.count('<li class="card" data-clip') == 5
    assert "5 videos compared; no footage is in two of them" in shown(page_of(site, "/findings?show=duplicates"))
    wrong = page_of(site, "/findings?show=unusual&filters=dog", 400)
    assert "takes filters only" in shown(wrong)


def test_a_late_comparison_is_a_sentence(service: SearchService) -> None:
    with serving(service, Settings(limits=Limits(task_s=0.0))) as hasty:
        page = shown(page_of(hasty, "/findings?show=duplicates", 503))
    assert "comparing videos reached its time limit" in page and "No question is watched" in page


def test_each_of_several_libraries_has_its_findings(folder: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(folder, second)
    Watches(SearchEngine(second)).add("third", 'said:"number 3"')
    labelled(second)
    with SearchService([folder, second]) as both, serving(both) as site:
        first, page = page_of(site, "/findings"), page_of(site, "/findings?library=1")
        assert "No question is watched" in first and "third 0 found" in shown(page)
        assert "?library=1" in links(first) and "/api/v1/watches/feed?library=1" in links(page)
        assert page.count('name="library" value="1"') == 2 and 'name="library"' not in first
        compared = page_of(site, "/findings?library=1&show=duplicates&filters=label:%22at+sea%22")
        assert "2 videos compared" in shown(compared)
        page_of(site, "/findings?library=2", 404)
