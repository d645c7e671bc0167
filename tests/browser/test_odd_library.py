"""A library behind a token, whose files have names that are long, from right to left, or scripts, and lack pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import install
from serving import CONTENT, SCRIPT, Site, add_file, serving

from vfindex.search.http.settings import Settings, Tokens
from vfindex.search.service import SearchService
from vfindex.storage.writer import writing

TOKEN = "a token that has thirty-two characters or more"
NAMES = ["إلى البحر 2024.mp4", f"{'a long name ' * 19}.mp4", f"{SCRIPT.replace('/', '_')}.mp4"]
CARD = ".grid > .card"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("odd")
    with writing(folder / "library") as writer:
        install(writer)
        for number, name in enumerate(NAMES):
            path = Path(folder / name)
            path.write_bytes(CONTENT)
            add_file(writer, path, number)
        writer.publish()
    with pytest.MonkeyPatch.context() as patch:
        fake_query_vectors(patch, axis_of_digit)
        settings = Settings(tokens=Tokens(TOKEN))
        with SearchService(folder / "library") as service, serving(service, settings) as running:
            yield running


@pytest.fixture
def enter(guarded: Site, open_page: Callable[..., Any]) -> Callable[..., Any]:
    """Return what opens a page as a client that has logged in by the form."""

    def entered(path: str, **options: Any) -> Any:
        page = open_page(f"http://127.0.0.1:{guarded.port}{path}", **options)
        page.fill("input[name=token]", TOKEN)
        page.click("text=Log in >> nth=-1")
        page.wait_for_selector("#main:not(:has(input[name=token]))")
        page.wait_for_load_state("load")
        return page

    return entered


@pytest.mark.parametrize("scripts", [True, False])
def test_a_token_logs_in(scripts: bool, guarded: Site, open_page: Callable[..., Any]) -> None:
    page = open_page(f"http://127.0.0.1:{guarded.port}/?q=1", java_script_enabled=scripts)
    page.fill("input[name=token]", "wrong")
    page.press("input[name=token]", "Enter")
    assert "not the token" in page.locator("[role=alert]").inner_text()
    page.fill("input[name=token]", TOKEN)
    page.press("input[name=token]", "Enter")
    page.wait_for_url("**/?q=1")
    assert page.locator(CARD).count() == len(NAMES)


def test_names_are_shown_as_text(guarded: Site, enter: Callable[..., Any]) -> None:
    page = enter("/?q=2", viewport={"width": 360, "height": 700})
    dialogs: list[Any] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    shown = dict.fromkeys(page.locator(f"{CARD} h2").all_inner_texts())
    assert shown.keys() == set(NAMES)
    title = page.locator(f"{CARD} h2", has_text="a long name")
    line_px = title.evaluate("each => parseFloat(getComputedStyle(each).lineHeight)")
    assert title.bounding_box()["height"] <= 2 * line_px + 1, "two lines at most"
    arabic = page.locator(f"{CARD} h2", has_text="2024")
    assert arabic.evaluate("each => getComputedStyle(each).direction") == "rtl"
    for path in ("/?q=2", "/videos/v1?t=1&q=2", "/videos/v2?t=1&q=2", "/library", "/marks"):
        page.goto(f"http://127.0.0.1:{guarded.port}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
        assert page.locator("img[src=x]").count() == 0, path
    assert dialogs == []


def test_what_has_no_picture_says_so(enter: Callable[..., Any]) -> None:
    page = enter("/?q=0")
    assert page.locator(f"{CARD} .shot img").count() == 0, "no image is asked for that is not there"
    assert page.locator(f"{CARD} article > .shot").first.inner_text().startswith("no picture")


def test_one_hit_is_one_video(enter: Callable[..., Any]) -> None:
    page = enter('/?q=said:"number 1"')
    assert page.locator("#count").inner_text() == "1 video, best first"
    assert page.locator(CARD).count() == 1
