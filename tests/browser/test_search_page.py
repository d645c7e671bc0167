"""The search page in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from serving import Site

CARD = ".grid > .card"


def ask(page: Any, query: str) -> None:
    page.fill("#q", query)
    page.press("#q", "Enter")
    page.wait_for_function(f"() => new URLSearchParams(location.search).get('q') === {query!r}")


def test_a_question_is_asked_and_asked_again(open_page: Callable[..., Any]) -> None:
    page = open_page("/")
    assert page.evaluate("document.activeElement.id") == "q"
    ask(page, "3")
    page.wait_for_selector(CARD)
    assert page.locator(f"{CARD} h2").first.inner_text().startswith("film 3")
    ask(page, "4")
    page.wait_for_function("() => document.querySelector('.card h2').textContent.startsWith('film 4')")
    page.go_back()
    page.wait_for_function("() => document.querySelector('.card h2').textContent.startsWith('film 3')")
    assert page.input_value("#q") == "3"
    assert page.locator("main video").count() == 0
    assert page.locator("#said").inner_text().endswith("videos and more")


def test_each_video_has_one_card_with_its_words(open_page: Callable[..., Any]) -> None:
    page = open_page(f"/?q={quote('said:harbour 3')}")
    names = page.locator(f"{CARD} h2").all_inner_texts()
    assert len(names) == len(set(names)) == 24
    assert {text.lower() for text in page.locator(f"{CARD} blockquote mark").all_inner_texts()} <= {
        "harbour",
        "harbours",
    }
    assert page.locator(f"{CARD} blockquote b").count() == 0, "what is said is text"


def test_further_results_come_without_a_jump(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=3", viewport={"width": 360, "height": 700})
    first = page.locator(CARD).first
    before = first.bounding_box()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function(f"() => document.querySelectorAll('{CARD}').length === 30")
    page.evaluate("scrollTo(0, 0)")
    assert first.bounding_box() == before
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_an_error_stands_under_its_character(open_page: Callable[..., Any]) -> None:
    page = open_page("/")
    ask(page, 'dog "in')
    page.wait_for_selector("#problem")
    assert page.locator("#problem mark").inner_text() == '"'
    assert page.evaluate("[q.selectionStart, q.selectionEnd, q.ariaInvalid]") == [4, 5, "true"]
    left, right = (
        page.evaluate(f"document.querySelector('{of}').getBoundingClientRect().left") for of in ("#problem pre", "#q")
    )
    assert 0 < left - right < 20, "the text begins where that of the bar does"
    ask(page, "3")
    page.wait_for_selector(CARD)
    assert page.locator("#problem").count() == 0
    assert page.get_attribute("#q", "aria-invalid") is None


def test_parts_of_the_question_can_be_taken_away(open_page: Callable[..., Any]) -> None:
    page = open_page(f"/?q={quote('3 -shown:ship2 longer:5s')}")
    chips = page.locator("#asked .chip")
    assert [text.split()[0] for text in chips.all_inner_texts()] == ["-shown:ship2", "longer:5s"]
    page.click("[aria-label='Without longer:5s']")
    page.wait_for_function("() => q.value === '3 -shown:ship2'")
    page.wait_for_function("() => document.querySelectorAll('#asked .chip').length === 1")
    page.click("[data-add='lang:']")
    assert page.input_value("#q") == "3 -shown:ship2 lang:"


def test_two_moments_have_two_pictures(open_page: Callable[..., Any]) -> None:
    page = open_page(f"/?q={quote('3 then harbours 3 within 9s')}")
    pair = page.locator(".shot.pair").first
    assert pair.locator("img").count() == 2
    assert pair.locator("time").all_inner_texts() == ["0:00", "0:05"]


def test_keys_move_mark_reject_and_explain(open_page: Callable[..., Any], site: Site) -> None:
    page = open_page("/?q=5")
    page.keyboard.press("j")
    page.keyboard.press("e")
    first = page.locator(CARD).first
    assert first.locator(".evidence[open]").count() == 1
    page.keyboard.press("m")
    page.wait_for_selector("#tray:not([hidden])")
    [mark] = site.get("/marks?list=marks").document["marks"]
    assert ":".join(map(str, mark["key"])) == first.get_attribute("data-clip")
    page.wait_for_selector("[data-act=mark][aria-pressed=true]")
    page.keyboard.press("m")
    page.wait_for_selector("#tray", state="hidden")
    assert site.get("/marks?list=marks").document["marks"] == []
    page.keyboard.press("x")
    page.wait_for_selector(".card.rejected")
    [judged] = site.get("/marks?list=judgements").document["marks"]
    assert (judged["question"], judged["grade"]) == ("5", 0)
    page.reload()
    page.wait_for_selector(".card.rejected")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"


def test_the_tray_exports(open_page: Callable[..., Any], site: Site) -> None:
    site.post("/marks", {"clip": "v6:5000", "list": "cut"})
    page = open_page("/?q=6")
    page.evaluate("localStorage.setItem('vfindex.list', 'cut')")
    page.reload()
    page.wait_for_selector("#tray:not([hidden])")
    with page.expect_download() as download:
        page.select_option("#export", "csv")
    assert b"film 6.mp4" in download.value.path().read_bytes()
    page.click("#tray .count")
    assert page.locator("[data-mark]").count() == 1
    assert page.locator("h1").inner_text() == "Marks"


def test_like_this_finds_what_looks_alike(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=4")
    page.locator(CARD).first.locator("[data-act=like]").click()
    page.wait_for_selector("#asked .chip img")
    assert "like=v4" in page.url
    assert page.locator(f"{CARD} h2").first.inner_text().startswith("film ")


@pytest.mark.parametrize("path", ["/", "/?q=3", "/?q=%22", "/videos/v3?t=5&q=3", "/library", "/marks"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(path: str, scheme: str, open_page: Callable[..., Any]) -> None:
    page = open_page(path, color_scheme=scheme, viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    low = page.evaluate(CONTRAST)
    assert not low, "WCAG 2.2, 1.4.3: 4.5 to 1"
    assert page.locator("main").count() == page.locator("header").count() == 1
    unnamed = "button:not([aria-label]), a[href], input, select"
    assert (
        page.evaluate(
            f"[...document.querySelectorAll('{unnamed}')].filter(each => !({NAME})(each)).map(e => e.outerHTML)"
        )
        == []
    )


# Text of an element, of its label, or of its attributes.
NAME = "e => e.ariaLabel || e.textContent.trim() || e.labels?.length || e.title || e.type === 'hidden'"
CONTRAST = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0.5) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest(".hidden, .skip")) continue;
    const [a, b] = [light(parts(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([node.tagName, node.textContent.trim().slice(0, 40), ratio]);
  }
  return found;
}"""


def test_search_works_without_javascript(open_page: Callable[..., Any]) -> None:
    page = open_page("/", java_script_enabled=False)
    page.fill("#q", "3")
    page.press("#q", "Enter")
    assert page.locator(CARD).count() == 24
    page.click("a[rel=next]")
    assert page.locator(CARD).count() == 6
    page.locator(".shot").first.click()
    assert re.search(r"/videos/v\d+\?", page.url)
    assert page.locator("#transcript a").count() == 2
    assert page.locator("button:visible").all_inner_texts() == ["Search"]


def test_a_page_is_light(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=3")
    page.wait_for_load_state("networkidle")
    sizes = dict(
        page.evaluate("performance.getEntriesByType('resource').map((each) => [each.name, each.decodedBodySize])")
    )
    own = {name: size for name, size in sizes.items() if "/thumbnails/" not in name}
    assert sum(own.values()) + len(page.content().encode()) < 150_000
    assert len(own) < 10
