"""The keys of the page, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving import Site

CARD = ".grid > .card"
FOCUSED = "document.activeElement.closest('[data-clip]')?.dataset.clip"


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
    site.ask(f"/api/v1/marks/{judged['id']}", "DELETE")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"


def test_j_k_and_the_arrows_go_from_hit_to_hit(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=5")
    page.keyboard.press("Escape")
    order = page.locator(".shot").evaluate_all("all => all.map((each) => each.closest('[data-clip]').dataset.clip)")
    for key, place in (("j", 0), ("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("k", 0)):
        page.keyboard.press(key)
        assert page.evaluate(FOCUSED) == order[place], key
    for _ in order[1:]:
        page.keyboard.press("j")
    assert page.evaluate(FOCUSED) == order[-1]
    assert page.evaluate("document.activeElement.getBoundingClientRect().bottom <= innerHeight")


def test_enter_plays_and_esc_goes_back(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=5")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    clip = page.evaluate(FOCUSED).split(":")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/videos/{clip[0]}?clip={clip[1]}&*")
    page.wait_for_function("() => document.querySelector('.watch')?.player?.time >= 0")
    page.keyboard.press("Escape")
    page.wait_for_url("**/?q=5")
    assert page.locator(f"{CARD} h2").first.inner_text().startswith("film 5")


def test_the_player_has_keys(open_page: Callable[..., Any]) -> None:
    page = open_page("/videos/v0?clip=0&t=0&q=5")
    playing = "document.querySelector('video') && !document.querySelector('video').paused"
    time = "document.querySelector('.watch').player.time"
    page.wait_for_function(f"() => {playing} && {time} > 0.2")
    page.keyboard.press(" ")
    page.wait_for_function(f"() => !({playing})")
    before = page.evaluate(time)
    for key, after in (("Shift+ArrowRight", 0.04), ("Shift+ArrowLeft", 0.0), ("ArrowRight", 5.0), ("ArrowLeft", 0.0)):
        page.keyboard.press(key)
        page.wait_for_function(f"() => Math.abs({time} - {before + after}) < 0.01", timeout=20_000)
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => {playing}")
    page.keyboard.press("e")
    page.wait_for_selector(".evidence:not([open])")
    page.keyboard.press("e")
    page.wait_for_selector(".evidence[open]")
    page.keyboard.press("m")
    page.wait_for_selector(".watch [data-act=mark][aria-pressed=true]")
    page.keyboard.press("m")
    page.wait_for_selector(".watch [data-act=mark][aria-pressed=false]")
    page.keyboard.press("l")
    page.wait_for_url("**/?like=v0:0")


def test_l_asks_for_what_looks_like_the_hit(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=5")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    clip = page.evaluate(FOCUSED)
    page.keyboard.press("l")
    page.wait_for_selector("#asked .chip img")
    assert page.url.endswith(f"/?like={clip.replace(':', '%3A')}") or page.url.endswith(f"/?like={clip}")


def test_a_key_typed_into_the_bar_is_text(open_page: Callable[..., Any]) -> None:
    page = open_page("/?q=4")
    page.keyboard.press("/")
    page.keyboard.type("jkmxle?/ ")
    assert page.input_value("#q") == "jkmxle?/ "
    assert page.locator(".rejected, .evidence[open], dialog[open]").count() == 0
