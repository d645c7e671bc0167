"""Lines of a transcript are corrected in place: by keyboard, on a phone, and as text whatever they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Site

from vfindex.storage.records import Line
from vfindex.storage.user.data import UserData

VIDEO = "v20"
BEFORE, AFTER = "the harbour at dawn", 'the <b>"arbour"</b> at dusk'
FIRST = "#transcript li >> nth=0"
Open = Callable[..., Any]


@pytest.fixture(autouse=True)
def nothing_is_left(site: Site) -> Iterator[None]:
    yield
    for each in site.get("/corrections").document["corrections"]:
        site.ask(f"/api/v1/corrections/{each['id']}", "DELETE")


def opened(open_page: Open, **options: Any) -> Any:
    page = open_page(f"/videos/{VIDEO}?t=1", **options)
    page.wait_for_selector("[data-act=correct]", state="attached")
    return page


def text_of(page: Any) -> str:
    return str(page.locator(f"{FIRST} >> .text").inner_text())


def test_a_line_is_corrected_by_keyboard_found_and_undone(open_page: Open, site: Site) -> None:
    page = opened(open_page)
    page.focus(f"{FIRST} >> a")
    page.keyboard.press("c")
    box = page.locator(f"{FIRST} >> textarea")
    assert box.input_value() == BEFORE and box.get_attribute("aria-label") == "Text of the line at 0:01"
    page.keyboard.press("Control+a")
    page.keyboard.type(f" {AFTER}  ")
    assert text_of(page) == BEFORE, "the original stays visible"
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{FIRST} >> .before")
    assert text_of(page) == AFTER and page.locator("#transcript b").count() == 0
    assert page.locator(f"{FIRST} >> .before s").inner_text() == BEFORE
    assert page.locator("#said").inner_text() == "corrected"
    assert page.locator("textarea").count() == 0
    assert page.evaluate("document.activeElement.ariaLabel") == "Correct the line at 0:01"
    assert site.get("/search?q=said:arbour").document["hits"][0]["key"][0] == VIDEO
    page.reload()
    page.wait_for_selector("[data-act=undo]")
    assert (text_of(page), page.locator(f"{FIRST} >> .before s").inner_text()) == (AFTER, BEFORE)
    page.focus("[data-act=undo]")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{FIRST} >> .before", state="detached")
    assert text_of(page) == BEFORE and site.get("/corrections").document == {"corrections": []}
    assert not [hit for hit in site.get("/search?q=said:arbour").document["hits"] if hit["words"]]


def test_esc_leaves_the_line_and_not_the_page(open_page: Open, site: Site) -> None:
    page = opened(open_page)
    page.hover(FIRST)
    page.click(f"{FIRST} >> [data-act=correct]")
    page.keyboard.type("something else j k m x / ?")
    page.keyboard.press("Escape")
    assert page.locator("textarea").count() == 0 and text_of(page) == BEFORE
    assert page.url.endswith(f"/videos/{VIDEO}?t=1") and not page.locator("#help").is_visible()
    assert page.evaluate("document.activeElement.dataset.act") == "correct"
    assert site.get("/corrections").document == {"corrections": []}


def test_the_line_that_is_said_is_the_one_that_c_corrects(open_page: Open) -> None:
    page = opened(open_page)
    page.wait_for_selector("#transcript [aria-current]")
    page.evaluate("document.querySelector('.watch').player.seek(7)")
    page.wait_for_selector("#transcript li:nth-child(2) [aria-current]")
    page.keyboard.press("c")
    assert page.locator("#transcript li:nth-child(2) textarea").input_value() == 'a <b>"ferry"</b> leaves the harbours'


def test_typing_the_original_undoes_and_the_same_text_does_nothing(open_page: Open, site: Site) -> None:
    page = opened(open_page)
    page.hover(FIRST)
    for text, count in (("one", 1), ("one", 1), ("two", 1), (f"  {BEFORE} ", 0), (BEFORE, 0)):
        page.click(f"{FIRST} >> [data-act=correct]")
        page.fill("textarea", text)
        page.click("text=Save")
        page.wait_for_selector("textarea", state="detached")
        found = site.get("/corrections").document["corrections"]
        assert len(found) == count and all(each["text"] == text for each in found)
        assert text_of(page) == text.strip()


def test_a_refusal_stands_under_the_line(open_page: Open) -> None:
    page = opened(open_page)
    page.hover(FIRST)
    page.click(f"{FIRST} >> [data-act=correct]")
    page.fill("textarea", "bell \x07")
    page.keyboard.press("Enter")
    alert = page.wait_for_selector(f"{FIRST} >> [role=alert]")
    assert alert.inner_text() == "the text has control characters"
    assert page.locator("textarea").get_attribute("aria-invalid") == "true"
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA", "what was typed is not lost"
    refused = {"error": {"kind": "Unauthorized", "message": "log in again"}}
    page.route("**/corrections", lambda route: route.fulfill(status=401, body=json.dumps(refused)))
    page.fill("textarea", "better")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('[role=alert]')?.textContent === 'log in again'")
    assert page.locator("textarea").input_value() == "better"


def test_a_correction_of_somebody_else_is_shown_before_it_is_replaced(open_page: Open, site: Site) -> None:
    page = opened(open_page)
    page.hover(FIRST)
    page.click(f"{FIRST} >> [data-act=correct]")
    page.fill("textarea", "mine")
    asked = {
        "video": VIDEO,
        "track": "speech",
        "start_s": 1,
        "end_s": 4,
        "original": BEFORE,
        "text": "theirs",
        "by": "ana",
    }
    assert site.post("/corrections", asked).status == 200
    page.keyboard.press("Enter")
    alert = page.wait_for_selector(f"{FIRST} >> [role=alert]")
    assert alert.inner_text().startswith("ana corrected this line meanwhile, it reads: theirs")
    page.wait_for_function("() => document.querySelector('#transcript .text').textContent === 'theirs'")
    assert page.locator(f"{FIRST} >> .before s").inner_text() == BEFORE
    assert page.locator("textarea").input_value() == "mine"
    page.keyboard.press("Enter")
    page.wait_for_selector("textarea", state="detached")
    assert text_of(page) == "mine"
    assert [each["text"] for each in site.get("/corrections").document["corrections"]] == ["mine"]


def test_a_phone_has_room_for_it(open_page: Open) -> None:
    page = opened(open_page, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.tap(f"{FIRST} >> [data-act=correct]")
    page.fill("textarea", "a very long text " * 10 + "x" * 100)
    page.tap("text=Save")
    page.wait_for_selector(f"{FIRST} >> .before")
    page.tap(f"{FIRST} >> [data-act=correct]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    sizes = page.locator(f"{FIRST} >> button").evaluate_all("all => all.map((each) => each.offsetHeight)")
    assert len(sizes) == 4 and min(sizes) >= 24, "each is large enough for a finger"


def test_a_correction_without_its_line_is_listed_and_deleted(open_page: Open, site: Site, library: Path) -> None:
    written = '<img src=x onerror="document.title=1">'
    UserData.open(library).correct(Line(VIDEO, "speech", 1000, 4000, "what another model heard"), written)
    page = opened(open_page)
    page.click("text=Corrections without their line: 1")
    assert written in page.locator(".stale").inner_text() and page.locator(".stale img").count() == 0
    assert text_of(page) == BEFORE, "it is never put on another line"
    page.click(".stale [data-act=forget]")
    page.wait_for_selector(".stale", state="detached")
    assert site.get("/corrections").document == {"corrections": []}


def test_a_line_that_nobody_said_is_emptied_and_undone(open_page: Open, site: Site) -> None:
    page = opened(open_page)
    page.hover(FIRST)
    page.click(f"{FIRST} >> [data-act=correct]")
    page.fill("textarea", " ")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{FIRST} >> .before")
    assert page.locator(f"{FIRST} >> .text").text_content() == ""
    page.reload()
    page.wait_for_selector("[data-act=undo]")
    assert page.locator(f"{FIRST} >> .text").text_content() == ""
    page.click("[data-act=undo]")
    page.wait_for_selector(f"{FIRST} >> .before", state="detached")
    assert text_of(page) == BEFORE and site.get("/corrections").document == {"corrections": []}


def test_undo_deletes_only_the_correction_that_is_shown(open_page: Open, site: Site) -> None:
    line = {"video": VIDEO, "track": "speech", "start_s": 1, "end_s": 4, "original": BEFORE}
    site.post("/corrections", {**line, "text": "by ana", "by": "ana"})
    page = opened(open_page)
    site.post("/corrections", {**line, "text": "by ben", "by": "ben"})
    page.click("[data-act=undo]")
    page.wait_for_function("() => said.textContent.startsWith('ben corrected this line meanwhile')")
    assert text_of(page) == "by ben" and len(site.get("/corrections").document["corrections"]) == 1
    page.click("[data-act=undo]")
    page.wait_for_function("() => said.textContent === 'as it was before'")
    assert text_of(page) == BEFORE and site.get("/corrections").document == {"corrections": []}
