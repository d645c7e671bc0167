"""Tasks beyond one search in a browser: chapters and digest of a video, judging, quotations, findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving import Site

CARD = ".grid > .card"


def test_a_digest_is_asked_for_when_it_is_opened_and_plays(open_page: Callable[..., Any]) -> None:
    page = open_page("/videos/v4")
    asked: list[str] = []
    moment = {"start_s": 5.0, "end_s": 10.0, "frame_s": 6.0, "share": 0.5, "clip": ["v4", 5000], "thumbnail": None}
    said = {"start_s": 6.0, "end_s": 9.0, "text": "a <b>ferry</b>", "track": "speech"}
    verdicts = {"pictures": {"better_than_chance": True}, "text": {"better_than_chance": True}}

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(json={"moments": [moment], "sentences": [said], **verdicts})

    page.route("**/digest", answer)
    page.wait_for_selector("[data-outline=digest]")
    assert page.locator("[data-outline=chapters]").count() == 0, "the file has its own"
    page.click("[data-outline=digest] summary")
    page.wait_for_selector("[data-outline=digest] .shot")
    assert len(asked) == 1
    assert page.locator("[data-outline=digest] .lines a").all_text_contents() == ["0:06 a <b>ferry</b>"]
    page.locator("[data-outline=digest] .shot").last.click()
    page.wait_for_function("() => document.querySelector('video').currentTime >= 4.9")


def test_a_digest_that_was_opened_before_its_script_came_is_filled(open_page: Callable[..., Any], site: Site) -> None:
    held: list[Any] = []
    page = open_page("about:blank")
    page.route("**/outline.js", lambda route: held.append(route))
    found = {"moments": [], "sentences": [], "pictures": {}, "text": {}}
    page.route("**/digest", lambda route: route.fulfill(json=found))
    page.goto(f"http://127.0.0.1:{site.port}/videos/v4", wait_until="commit")
    page.click("[data-outline=digest] summary")
    page.wait_for_selector("[data-outline=digest][open]")
    while not held:
        page.wait_for_timeout(50)
    held[0].continue_()
    page.wait_for_selector("[data-outline=digest] >> text=There is nothing to choose from.")


def test_chapters_that_are_found_are_marked_on_the_timeline(open_page: Callable[..., Any], site: Site) -> None:
    chapters = [
        {"start_s": 5.0 * n, "end_s": 5.0 * n + 5, "title": f"part <{n}>", "words": [], "sentence": None}
        for n in range(2)
    ]
    found = {"start_s": 0, "end_s": 10, "origin": "found", "p_value": 0.01, "better_than_chance": True}
    page = open_page("about:blank")
    page.route("**/videos/v5/chapters", lambda route: route.fulfill(json={**found, "chapters": chapters}))

    def without_own(route: Any) -> None:
        body = route.fetch().text()
        chosen = body.replace('data-outline="digest"', 'data-outline="chapters" data-clips="2"')
        route.fulfill(body=chosen, content_type="text/html; charset=utf-8")

    page.route("**/videos/v5", without_own)
    page.goto(f"http://127.0.0.1:{site.port}/videos/v5")
    page.wait_for_selector(".track .part", state="attached")
    assert page.locator(".track .part title").all_text_contents() == ["0:05 part <1>"]
    page.click("[data-outline=chapters] summary")
    page.locator("[data-outline=chapters] .lines a").last.click()
    page.wait_for_function("() => document.querySelector('video').currentTime >= 4.9")


def test_a_judgement_ranks_anew_and_is_undone(open_page: Callable[..., Any], site: Site) -> None:
    page = open_page("/?q=2")
    card = page.locator(f"{CARD}[data-clip^='v2:']")
    card.locator("[data-act=accept]").click()
    page.wait_for_selector(f"{CARD} [data-act=accept][aria-pressed=true]")
    page.click("text=Rank by judgements")
    page.wait_for_selector("#moved >> text=1 judgement moved the question")
    assert page.locator(".moved").count() == page.locator(CARD).count()
    page.wait_for_selector(f"{CARD} [data-act=accept][aria-pressed=true]")
    page.locator(f"{CARD}[data-clip^='v2:'] [data-act=accept]").click()
    page.wait_for_selector("#moved >> text=Nobody has judged")
    page.click("#moved a")
    page.wait_for_function("() => !document.querySelector('#moved')")
    assert page.url.endswith("/?q=2") and page.locator(".moved").count() == 0
    assert site.get("/marks?list=judgements&question=2").document["marks"] == []


def test_a_question_goes_from_moments_to_quotations_and_back(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=harbour")
    page.click("text=Quotations")
    page.wait_for_selector("#results >> text=This library cannot tell")
    page.fill("#q", "ferry")
    page.press("#q", "Enter")
    page.wait_for_function("() => location.pathname === '/ask' && location.search === '?q=ferry'")
    page.click("text=Show the nearest all the same")
    page.wait_for_selector(".answer blockquote mark")
    page.click("text=Moments")
    page.wait_for_function("() => location.pathname === '/' && location.search === '?q=ferry'")


def test_a_comparison_runs_in_place(open_page: Callable[..., Any]) -> None:
    page = open_page("/findings")
    page.click("text=Compare clips")
    page.wait_for_selector("[data-task=unusual] .summary")
    assert page.evaluate("document.activeElement.className") == "summary"
    assert page.inner_text("#working") == "" and page.url.endswith("/findings?show=unusual&filters=")
