"""The search page in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import pytest
from PIL import Image
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
    assert page.locator("#said").inner_text().endswith("24 videos and more, best first")


def test_each_video_has_one_card_with_its_words(open_page: Callable[..., Any]) -> None:
    page = open_page(f"/?q={quote('said:harbour 3')}")
    names = page.locator(f"{CARD} h2").all_inner_texts()
    assert len(names) == len(set(names)) == 24
    assert {text.lower() for text in page.locator(f"{CARD} blockquote mark").all_inner_texts()} <= {
        "harbour",
        "harbours",
    }
    assert page.locator(f"{CARD} blockquote b").count() == 0, "what is said is text"


SHIFTS = """
    window.shifted = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) window.shifted += entry.value; // input excuses none
    }).observe({ type: "layout-shift", buffered: true });
"""


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_jumps_while_results_arrive(width: int, open_page: Callable[..., Any]) -> None:
    page = open_page("about:blank", viewport={"width": width, "height": 700})
    page.add_init_script(SHIFTS)
    page.goto("/?q=3")
    page.wait_for_selector(CARD)
    for count in (24, 30):
        page.wait_for_function(f"() => document.querySelectorAll('{CARD}').length === {count}")
        page.mouse.wheel(0, 20_000)
    page.wait_for_function("() => scrollY > 1000 && scrollY + innerHeight > document.body.scrollHeight - 2")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("shifted") == 0


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
    page = open_page(f"/?q={quote('3 said:harbour -shown:ship2 longer:5s')}")
    chips = page.locator("#asked .chip")
    assert [text.split()[0] for text in chips.all_inner_texts()] == ["said:harbour", "-shown:ship2", "longer:5s"]
    page.click("[aria-label='Without longer:5s']")
    page.wait_for_function("() => q.value === '3 said:harbour -shown:ship2'")
    page.click("[aria-label='Without said:harbour']")
    page.wait_for_function("() => q.value === '3 -shown:ship2'")
    page.wait_for_function("() => document.querySelectorAll('#asked .chip').length === 1")
    assert unquote_plus(page.url).endswith("/?q=3 -shown:ship2")
    page.click("[data-add='lang:']")
    assert page.input_value("#q") == "3 -shown:ship2 lang:"


def test_two_moments_have_two_pictures(open_page: Callable[..., Any]) -> None:
    page = open_page(f"/?q={quote('3 then harbours 3 within 9s')}")
    pair = page.locator(".shot.pair").first
    assert pair.locator("img").count() == 2
    assert pair.locator("time").all_inner_texts() == ["0:00", "0:05"]


def test_a_question_is_kept_while_a_video_is_watched(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=3")
    ask(page, "said:ferry 6")
    page.wait_for_function("() => document.querySelector('.card h2')?.textContent.startsWith('film 6')")
    page.click(f"{CARD} .shot >> nth=0")
    page.wait_for_url("**/videos/v*")
    assert page.input_value("#q") == "said:ferry 6"
    page.go_back()
    page.wait_for_selector(CARD)
    assert page.input_value("#q") == "said:ferry 6"
    page.go_back()
    page.wait_for_function("() => document.querySelector('.card h2').textContent.startsWith('film 3')")
    page.go_forward()
    page.wait_for_function("() => document.querySelector('.card h2').textContent.startsWith('film 6')")


@pytest.mark.parametrize("way", ["paste", "drop", "file"])
def test_a_picture_is_a_question(way: str, open_page: Callable[..., Any], tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (50, 0, 0)).save(tmp_path / "red.png")
    page = open_page("/")
    if way == "file":
        page.set_input_files("input[name=image]", tmp_path / "red.png")
        page.click("text=Find what looks like it")
    else:
        bytes_ = list((tmp_path / "red.png").read_bytes())
        page.evaluate(SEND, [way, bytes_, "image/png"])
    page.wait_for_selector("#asked .chip >> text=1 picture")
    assert page.locator(f"{CARD} h2").first.inner_text().startswith("film 5")
    page.click("[aria-label='Without pictures']")
    page.wait_for_selector("text=Find the moment")


def test_a_judgement_is_of_the_question_whose_hits_are_shown(
    open_page: Callable[..., Any], tmp_path: Path, site: Site
) -> None:
    Image.new("RGB", (40, 30), (50, 0, 0)).save(tmp_path / "red.png")
    page = open_page("/?q=4")
    page.fill("#q", "5")
    page.evaluate(SEND, ["paste", list((tmp_path / "red.png").read_bytes()), "image/png"])
    page.wait_for_selector("#asked .chip >> text=1 picture")
    page.locator(CARD).first.locator("[data-act=reject]").click()
    page.wait_for_selector(".rejected")
    [mark] = site.get("/marks?list=judgements&question=5").document["marks"]
    site.ask(f"/api/v1/marks/{mark['id']}", "DELETE")
    assert site.get("/marks?list=judgements&question=4").document["marks"] == []


# What a browser sends for a picture of the clipboard, or of a file manager.
SEND = """([way, bytes, type]) => {
  const given = new DataTransfer();
  given.items.add(new File([new Uint8Array(bytes)], "some", { type }));
  const options = { bubbles: true, cancelable: true };
  if (way === "paste") document.body.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: given }));
  else document.body.dispatchEvent(new DragEvent("dragover", { ...options, dataTransfer: given }));
  const shown = document.body.classList.contains("drop");
  if (way === "drop") document.body.dispatchEvent(new DragEvent("drop", { ...options, dataTransfer: given }));
  return shown;
}"""


def test_what_is_dropped_and_is_no_picture_is_refused(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=3")
    assert page.evaluate(SEND, ["drop", [1, 2, 3], "text/plain"]), "the page shows that it takes files"
    page.wait_for_function("() => said.textContent === 'only pictures can be searched for'")
    assert page.locator("body.drop").count() == 0
    assert page.locator(CARD).count() == 24


@pytest.mark.parametrize("way", ["pointer", "focus"])
def test_the_clips_beside_a_hit_are_shown(way: str, open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=3")
    shot = page.locator(f"{CARD} article > .shot").first
    assert shot.locator(".near").count() == 0
    if way == "pointer":
        shot.hover()
    else:
        page.keyboard.press("Escape")
        page.keyboard.press("j")
    page.wait_for_selector(f"{CARD} .near img >> nth=1")
    sources = shot.locator(".near img").evaluate_all("all => all.map((each) => each.src.split('/').slice(-1)[0])")
    assert sources == ["0", "5000"]
    assert shot.locator("video").count() == 0
    if way == "pointer":
        page.mouse.move(1, 1)
    else:
        page.keyboard.press("j")
    page.wait_for_selector(f"{CARD} >> nth=0 >> .near", state="detached")


def test_a_question_is_saved_and_deleted(open_page: Callable[..., Any], site: Site) -> None:
    page = open_page(f"/?q={quote('said:ferry 2')}")
    page.click("text=Save question")
    page.wait_for_function("() => said.textContent.startsWith('saved')")
    page.click(".home")
    page.click(".examples >> text=said:ferry 2 >> nth=0")
    page.wait_for_selector(CARD)
    page.go_back()
    page.click("[aria-label='Delete said:ferry 2']")
    page.wait_for_function("() => said.textContent === 'deleted'")
    assert site.get("/saved").document["saved"] == []


def test_the_tray_exports(open_page: Callable[..., Any], site: Site) -> None:
    site.post("/marks", {"clip": "v6:5000", "list": "cut"})
    page = open_page("/?q=6")
    page.evaluate("localStorage.setItem('vfindex.list', 'cut')")
    page.reload()
    page.wait_for_selector("#tray:not([hidden])")
    with page.expect_download() as download:
        page.select_option("#export", "csv")
    assert b"film 6.mp4" in download.value.path().read_bytes()
    assert download.value.suggested_filename.endswith(".csv")
    page.click("#tray .count")
    page.wait_for_url("**/marks?list=cut")
    assert page.locator("[data-mark]").count() == 1
    assert page.locator("h1").inner_text() == "Marks"


def test_like_this_finds_what_looks_alike(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=4")
    page.locator(CARD).first.locator("[data-act=like]").click()
    page.wait_for_selector("#asked .chip img")
    assert "like=v4" in page.url
    assert page.locator(f"{CARD} h2").first.inner_text().startswith("film ")


def test_search_works_without_javascript(open_page: Callable[..., Any]) -> None:
    page = open_page("/", java_script_enabled=False)
    page.fill("#q", "3")
    page.press("#q", "Enter")
    page.wait_for_url("**/?q=3")
    assert page.locator(CARD).count() == 24
    page.click("a[rel=next]")
    page.wait_for_url("**/?q=3&*")
    assert page.locator(CARD).count() == 6
    page.locator(".shot").first.click()
    page.wait_for_url(re.compile(r"/videos/v\d+\?"))
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
