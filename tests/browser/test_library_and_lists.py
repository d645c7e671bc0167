"""Lists of marks, and the page of a library, in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import Site

from vfindex.storage.writer import writing


def test_a_list_is_kept_renamed_opened_elsewhere_and_deleted(open_page: Callable[..., Any], site: Site) -> None:
    for clip in ("v5:0", "v6:0"):
        site.post("/marks", {"clip": clip, "list": "raw", "note": "<b>"})
    page = open_page("/marks?list=raw")
    page.fill(".rename input", "fine cut")
    page.click(".rename button")
    page.wait_for_url("**/marks?list=fine+cut")
    assert page.locator("[data-mark]").count() == 2
    page.fill(".save-as input", "copy")
    page.click(".save-as button")
    page.wait_for_url("**/marks?list=copy")
    notes = {mark["note"] for mark in site.get("/marks?list=copy").document["marks"]}
    assert notes == {"<b>"}
    page.locator("[data-act=remove]").first.click()
    page.wait_for_function("() => document.querySelectorAll('[data-mark]').length === 1")
    other = open_page("/?q=3")
    other.wait_for_function("() => document.querySelector('#lists')?.children.length >= 2")
    names = other.evaluate("[...document.querySelectorAll('#lists option')].map((each) => each.value)")
    assert {"fine cut", "copy"} <= set(names)
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("[data-act=remove-list]")
    page.wait_for_url("**/marks?list=marks")
    assert "copy" not in {each["name"] for each in site.get("/lists").document["lists"]}


def test_a_run_that_works_shows_how_far_it_is(open_page: Callable[..., Any], site: Site) -> None:
    with writing(Path(site.get("/status").document["library"])) as writer:
        run = writer.catalog.begin_run("reindex")
        counts = {"total_files": 5, "done_s": 0.0, "total_s": 50.0}
        writer.catalog.note_progress(run, {"done_files": 1, **counts})
        page = open_page("/library")
        page.wait_for_function("() => document.querySelector('#progress progress').value === 1")
        writer.catalog.note_progress(run, {"done_files": 4, **counts})
        page.wait_for_function("() => document.querySelector('#progress progress').value === 4")
        assert "reindex: 4 of 5 files" in page.locator("#progress").inner_text()
        writer.catalog.end_run(run, {"found": 5, "indexed": 5, "wall_s": 9.0})
    page.wait_for_selector("text=5 indexed of 5 found")
    assert page.locator("#progress progress").count() == 0
