"""Who sees little, uses no pointer, or has the page read aloud can use every page; so can a phone of 360 px."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

PAGES = [
    *("/", "/?q=3", "/?q=said:harbour", "/?q=said:qqq", "/?q=%22"),
    *("/videos/v3?clip=5000&t=5&q=3", "/videos/none", "/library", "/marks"),
    *("/ask", "/ask?q=harbour&all=1", "/findings?show=unusual", "/findings?show=duplicates"),
]
CONTROLS = {"button", "link", "textbox", "searchbox", "combobox", "checkbox", "meter", "img", "image"}
PHONE = {"width": 360, "height": 700}


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(path: str, scheme: str, open_page: Callable[..., Any]) -> None:
    page = open_page(path, color_scheme=scheme, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for details in page.locator("details:not([open]) > summary:visible").all()[:3]:
        details.click()
    assert page.evaluate(CONTRAST) == [], "WCAG 2.2, 1.4.3: 4.5 to 1"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("path", PAGES)
def test_everything_has_a_name(path: str, open_page: Callable[..., Any]) -> None:
    page = open_page(path)
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert [role for role, name in told if role in CONTROLS and not name.strip()] == []
    roles = [role for role, _ in told]
    assert (roles.count("main"), roles.count("banner"), roles.count("search")) == (1, 1, 1)
    assert "heading" in roles or path == "/?q=%22"
    assert page.locator("html[lang]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/?q=3 longer:5s", "/videos/v3?clip=5000&t=5&q=3", "/library"])
def test_the_focus_is_seen(path: str, scheme: str, open_page: Callable[..., Any]) -> None:
    page = open_page(path, color_scheme=scheme)
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(25):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement !== document.body"):  # that is the way round through the browser
            seen.append(page.evaluate(FOCUS))
    assert [outline for outline in seen if not outline["width"]] == []
    assert len({outline["what"] for outline in seen}) > 10, "the focus moves on"
    assert seen[0]["what"].startswith("To the results")


def test_results_are_told(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=3")
    told = page.locator("#said")
    assert (told.get_attribute("role"), told.get_attribute("aria-live")) == ("status", "polite")
    page.wait_for_function("() => said.textContent === '24 videos and more, best first'")
    page.fill("#q", "said:qqq")
    page.press("#q", "Enter")
    page.wait_for_function("() => said.textContent.startsWith('No confident match')")
    page.fill("#q", 'dog "in')
    page.press("#q", "Enter")
    page.wait_for_selector("#problem[role=alert]")


def test_the_focus_stays_on_the_page(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=3 longer:5s")
    page.focus("[aria-label='Without longer:5s']")
    page.keyboard.press("Enter")
    page.wait_for_function("() => q.value === '3'")
    assert page.evaluate("document.activeElement.id") == "main", "what had it is gone"
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.className") == "shot"


def test_nothing_moves_for_who_wants_no_movement(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=3", reduced_motion="reduce")
    page.wait_for_selector(".shot img")
    durations = "[...document.querySelectorAll('body *')].map((each) => getComputedStyle(each).transitionDuration)"
    assert set(page.evaluate(durations)) == {"0s"}


FOCUS = """() => {
  const node = document.activeElement, style = getComputedStyle(node.matches("svg a") ? node.firstElementChild : node);
  const drawn = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth)) || node.matches("video, svg a");
  const what = [node.ariaLabel ?? "", node.textContent.trim(), node.getAttribute("href") ?? ""].join("");
  return { what, width: drawn || 0 };
}"""
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
