"""The page of a video in a browser: every step of the ladder plays the moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TIME = "document.querySelector('.watch').player.time"
PLAYER = "document.querySelector('.watch').player"
RUNGS = {"v0": "file", "v1": "remux", "v2": "transcode"}


def wait_for(page: Any, holds: str) -> None:
    page.wait_for_function(f"() => {PLAYER} && ({holds})")


@pytest.mark.parametrize("video", RUNGS)
def test_the_moment_plays(video: str, open_page: Callable[..., Any]) -> None:
    page = open_page("about:blank")
    page.add_init_script("""
        window.first = null;
        document.addEventListener("playing", (event) => { first ??= event.target.currentTime; }, true);
    """)
    page.goto(f"/videos/{video}?clip=5000&t=5&end=8&q=3")
    wait_for(page, "window.first !== null")
    assert abs(page.evaluate("first") - 5.0) < 0.2
    wait_for(page, f"{TIME} > 6")
    assert page.evaluate(f"{PLAYER}.rung") == RUNGS[video]
    assert len(set(page.evaluate(COLOURS_SHOWN))) > 1, "the frame is not blank"
    wait_for(page, "document.querySelector('video').paused")
    assert abs(page.evaluate(TIME) - 8.0) < 0.3, "it stops at the end of the moment"
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("ArrowLeft")
    wait_for(page, f"{TIME} < 3.1 && !document.querySelector('video').seeking")


COLOURS_SHOWN = """() => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [16, 9];
  const context = canvas.getContext("2d");
  context.drawImage(document.querySelector("video"), 0, 0, 16, 9);
  const { data } = context.getImageData(0, 0, 16, 9);
  return Array.from({ length: 144 }, (_, n) => data.slice(4 * n, 4 * n + 3).join());
}"""


def test_a_moment_loops(open_page: Callable[..., Any]) -> None:
    page = open_page("/videos/v0?clip=5000&t=5&end=6&q=3")
    wait_for(page, f"{TIME} >= 5.8 && document.querySelector('video').paused")
    page.evaluate("window.seeks = 0; document.querySelector('video').addEventListener('seeked', () => { seeks += 1; })")
    page.focus("#at-end")
    page.select_option("#at-end", "loop")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body"), "Esc leaves the menu, not the page"
    page.evaluate("() => { document.querySelector('video').play(); }")
    wait_for(page, f"seeks >= 3 && {TIME} < 6")
    assert not page.evaluate("document.querySelector('video').paused")


def test_the_transcript_follows_and_leads(open_page: Callable[..., Any]) -> None:
    page = open_page("/videos/v0?t=1.5&q=harbour")
    wait_for(page, f"{TIME} > 1.4")
    page.wait_for_selector("#transcript [aria-current]")
    assert "dawn" in page.locator("#transcript [aria-current]").inner_text()
    page.click("#transcript a >> nth=1")
    wait_for(page, f"{TIME} >= 6")
    assert "ferry" in page.locator("#transcript [aria-current]").inner_text()
    assert page.locator("#transcript b").count() == 0, "what is said is text"
    page.click(".beside a >> text=Dawn")
    wait_for(page, f"{TIME} < 3")


def test_the_timeline_has_hits_and_coverage(open_page: Callable[..., Any]) -> None:
    page = open_page("/videos/v3?t=0&q=said:harbour")
    ticks = page.locator(".track a")
    assert ticks.count() == 1
    assert page.locator(".cover svg").evaluate_all("all => all.map((each) => each.ariaLabel)") == [
        "visual covers 0:10 of 0:10",
        "speech covers 0:10 of 0:10",
    ]
    wait_for(page, f"{PLAYER}.rung === 'file'")
    page.keyboard.press("ArrowRight")
    wait_for(page, f"{TIME} >= 5")
    ticks.first.focus()
    page.keyboard.press("Enter")
    wait_for(page, f"{TIME} < 5")


def test_a_busy_server_is_asked_again(open_page: Callable[..., Any]) -> None:
    page = open_page("about:blank")
    refused: list[str] = []

    def answer(route: Any) -> None:
        if refused:
            route.fallback()
            return
        refused.append(route.request.url)
        error = {"error": {"kind": "Overloaded", "message": "too many play at once"}}
        route.fulfill(status=503, headers={"retry-after": "1"}, json=error)

    page.route("**/stream?**", answer)
    page.goto("/videos/v1?t=2")
    wait_for(page, f"{TIME} > 2.5")
    assert refused


def test_a_stream_that_no_waiting_brings_is_not_waited_for(open_page: Callable[..., Any]) -> None:
    page = open_page("about:blank")
    error = {"error": {"kind": "LibraryError", "message": "the library is gone"}}
    page.route("**/stream?**", lambda route: route.fulfill(status=503, headers={"retry-after": "1"}, json=error))
    page.goto("/videos/v1?t=2")
    page.wait_for_selector(".strip:not([hidden])")
    assert page.locator(".note").inner_text() == "Frames only: the library is gone"


def test_a_page_that_comes_back_reads_the_stream_on(open_page: Callable[..., Any]) -> None:
    page = open_page("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/stream?" in request.url else None)
    page.add_init_script("""
        const append = SourceBuffer.prototype.appendBuffer;
        SourceBuffer.prototype.appendBuffer = function (bytes) {
          if (window.released) append.call(this, bytes);
        };
    """)
    page.goto("/videos/v1?t=2")
    page.wait_for_function("() => document.querySelector('video').readyState === 0")
    page.wait_for_function("() => window.PageTransitionEvent")
    while not asked:
        page.wait_for_timeout(50)
    page.evaluate("""() => {
        dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
        window.released = true;
        dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
    }""")
    wait_for(page, f"{TIME} > 2.5")
    assert len(asked) > 1


def test_a_file_that_the_browser_cannot_play_is_encoded_then_shown_as_frames(open_page: Callable[..., Any]) -> None:
    page = open_page("about:blank")
    page.route("**/media", lambda route: route.fulfill(status=200, body=b"no video", content_type="video/mp4"))
    page.goto("/videos/v0?t=2")
    wait_for(page, f"{PLAYER}.rung === 'transcode' && {TIME} > 2.5")
    error = {"error": {"kind": "VideoError", "message": "it is damaged"}}
    page.route("**/stream?**", lambda route: route.fulfill(status=422, json=error))
    page.goto("/videos/v0?t=3")
    page.wait_for_selector(".strip:not([hidden])")
    assert page.locator(".strip img").count() > 10
    assert page.locator(".note").inner_text() == "Frames only: it is damaged"


def test_a_video_that_is_not_there_is_a_page(open_page: Callable[..., Any]) -> None:
    page = open_page("/videos/nothing")
    assert page.locator("[role=alert]").inner_text() == "The library has no video with this fingerprint"
