"""The page in a browser: weight, requests, time until it can be used, time to results, memory, first bytes of streams.

    python tests/bench/page.py LIBRARY [--searches 100] [--streams 20]

Starts a server of the library and a Chromium (VFINDEX_BROWSER, else `chromium` of PATH), and prints:

- of a first visit of each page: bytes sent without and with pictures, requests, first contentful paint, and the time
  until its script has run, after which every key and button works; time of tasks beyond 50 ms each;
- of questions: from Enter until the first results are painted, and the same less the time in which `/api/v1/search`
  answers questions of the same kind, which is the page's own share;
- of the page's memory: the heap after garbage collection, nodes and listeners, after 10 searches and after all;
- of streams of spans at random places: the time to the first byte, by rung.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import time
from collections import defaultdict
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import sync_playwright
from serve import WORDS, memory_mb, served

SPAN_S = 30.0
SETTLED_MS = 1500  # a video goes on loading
# Counts what is asked for before the first script of the page.
OBSERVER = """
  window.busy = 0;
  new PerformanceObserver((list) => {
    for (const task of list.getEntries()) window.busy += task.duration - 50;
  }).observe({ type: "longtask", buffered: true });
"""
SEARCH = """async (question) => {
  const results = document.getElementById("results"), bar = document.getElementById("q");
  bar.value = question;
  const began = performance.now();
  const came = new Promise((resolve) => {
    const watcher = new MutationObserver(() => {
      if (document.getElementById("results") === results) return;
      watcher.disconnect();
      requestAnimationFrame(() => setTimeout(resolve)); // after the frame
    });
    watcher.observe(document.getElementById("main"), { childList: true });
  });
  bar.form.requestSubmit();
  await came;
  return performance.now() - began;
}"""


class Questions:
    """Questions that were never asked before."""

    def __init__(self) -> None:
        self._number = 0

    def one(self) -> str:
        self._number += 1
        return f"{random.choice(WORDS)} {random.choice(WORDS)} {self._number}"


def main() -> None:
    """Measure the page of a library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--streams", type=int, default=20)
    given = parser.parse_args()
    random.seed(1)
    load = os.getloadavg()[0]
    with served(given.library) as (pid, port), sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=os.environ.get("VFINDEX_BROWSER") or shutil.which("chromium"),
            args=["--no-sandbox", "--enable-precise-memory-info"],
        )
        videos = asked(port, "/api/v1/videos?limit=1000")["videos"]
        asked(port, "/api/v1/search?q=warm")
        site = f"http://127.0.0.1:{port}"
        for path in ("/", "/?q=dog", f"/videos/{videos[0]['fingerprint']}?t=1&q=dog", "/library"):
            print(first_visit(browser, site + path, path.partition("?")[0] + ("?q=dog" if path == "/?q=dog" else "")))
        searches(browser, port, given.searches)
        print(f"server: {memory_mb(pid):.0f} MB")
        streams(port, videos, given.streams)
        browser.close()
    print(f"load {load:.1f} before, {os.getloadavg()[0]:.1f} after")


def asked(port: int, path: str) -> Any:
    """Return the JSON answer of the server."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def first_visit(browser: Any, address: str, name: str) -> str:
    """Return the figures of a page that is opened with an empty cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(OBSERVER)
    network, kinds, sizes = context.new_cdp_session(page), {}, defaultdict(int)
    network.send("Network.enable")
    network.on("Network.responseReceived", lambda event: kinds.update({event["requestId"]: event["type"]}))

    def note(event: dict[str, Any]) -> None:
        sizes[event["requestId"]] += event["encodedDataLength"]

    network.on("Network.loadingFinished", note)
    page.goto(address)
    page.wait_for_timeout(SETTLED_MS)
    own = [size for request, size in sizes.items() if kinds.get(request) not in ("Image", "Media")]
    times = page.evaluate("""() => {
      const [visit] = performance.getEntriesByType("navigation");
      const paint = performance.getEntriesByName("first-contentful-paint")[0];
      return [visit.responseStart, paint?.startTime ?? 0, visit.domContentLoadedEventEnd, window.busy];
    }""")
    context.close()
    answer, paint, usable, busy = (f"{time_ms:.0f} ms" for time_ms in times)
    light, whole = (f"{sum(each) / 1e3:.0f} kB in {len(each)} requests" for each in (own, [*sizes.values()]))
    times_told = f"first byte {answer}, painted {paint}, usable {usable}, long tasks {busy}"
    return f"{name}: {light}, with pictures {whole}; {times_told}"


def searches(browser: Any, port: int, count: int) -> None:
    """Ask questions of one page, and as many of the interface; print times and memory."""
    questions, page_ms, api_ms = Questions(), [], []
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    for number in range(1, count + 1):
        page_ms.append(page.evaluate(SEARCH, questions.one()))
        began_s = time.perf_counter()
        asked(port, f"/api/v1/search?q={quote(questions.one())}&k=100&per_video=4")
        api_ms.append(1e3 * (time.perf_counter() - began_s))
        if number in (10, count):
            print(f"after {number} searches: {memory_of(session)}")
    own = statistics.median(page_ms) - statistics.median(api_ms)
    print(
        f"from Enter to results: {summary(page_ms)}; /api/v1/search: {summary(api_ms)}; of the page itself {own:.0f} ms"
    )


def memory_of(session: Any) -> str:
    """Return what a page holds after garbage collection. A locator would add 0.75 MB of the driver's script."""
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
    found = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    listeners = found["JSEventListeners"]
    return f"heap {found['JSHeapUsedSize'] / 1e6:.2f} MB, {found['Nodes']:.0f} nodes, {listeners:.0f} listeners"


def streams(port: int, videos: list[dict[str, Any]], count: int) -> None:
    """Print the time to the first byte of spans, by what is done for them."""
    found: dict[str, list[float]] = defaultdict(list)
    for video in random.sample(videos, min(count, len(videos))):
        start_s = random.uniform(0, max(0.0, video["duration_s"] - 1.0))
        for rung in ("", "&rung=transcode"):
            connection = HTTPConnection("127.0.0.1", port, timeout=120)
            began_s = time.perf_counter()
            span = f"start_s={start_s:.3f}&end_s={start_s + SPAN_S:.3f}"
            connection.request("GET", f"/api/v1/videos/{video['fingerprint']}/stream?{span}{rung}")
            answer = connection.getresponse()
            answer.read(1)
            found[answer.headers.get("vfindex-rung") or f"HTTP {answer.status}"].append(
                1e3 * (time.perf_counter() - began_s)
            )
            connection.close()
    for rung, times_ms in sorted(found.items()):
        print(f"first byte of a span, {rung}: {summary(times_ms)} ({len(times_ms)} spans)")


def summary(times_ms: list[float]) -> str:
    """Return median and worst."""
    return f"median {statistics.median(times_ms):.0f} ms, worst {max(times_ms):.0f} ms"


if __name__ == "__main__":
    main()
