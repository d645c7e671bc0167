"""Attacks on the server: other sites, other names, other files, wrong tokens, scripts in whatever files hold."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from library_maker import add_video, axis, clip, install
from serving import Site, add_file, check_page, logged_in, serving

from vfindex.search.http.sessions import LINK_S, SESSION_S, Sessions
from vfindex.search.http.settings import Settings, Tokens, networks
from vfindex.search.service import SearchService
from vfindex.storage.db.sources import Root, remember
from vfindex.storage.errors import Problem, UsageError
from vfindex.storage.maintenance.removal import RemovalSettings, forget_path
from vfindex.storage.records import Chapter, Location, Segment
from vfindex.storage.writer import writing

TOKENS = Tokens("w" * 32, "r" * 32)
PATHS = ("/", "/api/v1/status", "/api/v1/search?q=1", "/api/v1/videos/v1/media", "/videos/v1", "/static/page.css")


@pytest.fixture
def guarded(service: SearchService) -> Iterator[Site]:
    """Return a server that asks for a token."""
    with serving(service, Settings(tokens=TOKENS)) as running:
        yield running


# --- other names and other sites ------------------------------------------------------------------------------------


def test_a_name_that_was_made_to_point_here_is_refused(site: Site) -> None:
    for host in ("evil.example", f"evil.example:{site.port}", "localhost.evil.example", "", "127.0.0.1:1", "[::1"):
        for path in PATHS:
            assert site.ask(path, headers={"host": host}).error == (421, "UnknownHost"), (host, path)
    hidden = f"evil@127.0.0.1:{site.port}"
    assert site.ask("/", headers={"host": hidden}).error == (421, "UnknownHost")
    for host in (f"127.0.0.1:{site.port}", f"localhost:{site.port}", f"LOCALHOST:{site.port}", f"[::1]:{site.port}"):
        assert site.ask("/", headers={"host": host}).status == 200
    forwarded = {"x-forwarded-host": f"127.0.0.1:{site.port}", "host": "evil.example"}
    assert site.ask("/", headers=forwarded).error == (421, "UnknownHost")
    twice = b"GET / HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nhost: evil.example\r\n\r\n" % site.port
    assert site.raw(twice).startswith(b"HTTP/1.1 400 ")
    assert site.raw(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421 ")


def test_pages_of_other_sites_can_neither_ask_nor_write(site: Site) -> None:
    mark = {"clip": "v1:0"}
    for of in ("cross-site", "same-site"):
        assert site.post("/marks", mark, sec_fetch_site=of).error == (403, "CrossSite")
        assert site.get("/search?q=1", sec_fetch_site=of).error == (403, "CrossSite")
        assert site.get("/videos/v1/media", sec_fetch_site=of, sec_fetch_dest="video").error == (403, "CrossSite")
        link = {"sec_fetch_site": of, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
        assert site.get("/status", **link).error == (403, "CrossSite"), "the interface is for programs, not for links"
        framed = {name.replace("_", "-"): value for name, value in {**link, "sec_fetch_dest": "iframe"}.items()}
        assert site.ask("/", headers=framed).error == (403, "CrossSite")
        linked = {name.replace("_", "-"): value for name, value in link.items()}
        assert site.ask("/?q=1", headers=linked).status == 200, "a link to a page is a link"
        assert site.ask("/logout", "POST", b"", linked).error == (403, "CrossSite")
    for origin in (
        "https://evil.example",
        "null",
        f"http://127.0.0.1:{site.port + 1}",
        f"https://127.0.0.1:{site.port}",
    ):
        assert site.post("/marks", mark, origin=origin).error == (403, "CrossSite")
        assert site.get("/status", origin=origin).error == (403, "CrossSite")
    assert site.get("/marks").document == {"marks": []}
    own = {"origin": f"http://127.0.0.1:{site.port}", "sec_fetch_site": "same-origin"}
    assert site.post("/marks", mark, **own).status == 200


def test_no_answer_lets_another_site_read_it(site: Site) -> None:
    for path in (*PATHS, "/nothing", "/api/v1/search?x=1"):
        answer = site.ask(path, headers={"origin": f"http://127.0.0.1:{site.port}"})
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert site.ask("/api/v1/marks", "OPTIONS", headers=preflight).error == (405, "MethodNotAllowed")


# --- other files ----------------------------------------------------------------------------------------------------

TRAVERSALS = (
    "../secret.mp4",
    "..%2fsecret.mp4",
    "%2e%2e%2fsecret.mp4",
    "..%252fsecret.mp4",
    "....//secret.mp4",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "file:%2f%2f%2fetc%2fpasswd",
    "v1%00",
    "v1%0d%0aset-cookie:%20a=b",
    "..\\secret.mp4",
    "%c0%ae%c0%ae%2fsecret.mp4",
    "secret.mp4",
    "v1.mp4",
    "library.db",
    "~",
    ".",
    "",
)


def test_no_parameter_names_a_file(site: Site, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(films)
    inside = ("/videos/{}", "/videos/{}/media", "/videos/{}/transcript", "/videos/{}/frame", "/videos/{}/playback")
    inside += ("/videos/{}/stream", "/videos/{}/thumbnails/0", "/videos/v1/thumbnails/{}", "/runs/{}")
    asked = ("/similar?clip={}", "/similar?clip={}:0", "/search?q=1&like={}", "/export?format=csv&video={}")
    asked += ("/videos/v1/transcript?format={}", "/export?q=1&format={}", "/videos/v1/frame?t={}")
    for name in TRAVERSALS:
        for path in (*inside, *asked):
            if not name and path == "/videos/{}":
                continue  # the list
            answer = site.get(path.format(name))
            assert answer.status in (400, 404), (path, name, answer.body)
            assert b"not in the library" not in answer.body
            assert b"root:" not in answer.body
            assert "set-cookie" not in answer.headers
        for path in ("/static/{}", "/static/../{}", "/videos/{}", "//{}"):
            assert site.ask(path.format(name)).status in (400, 404, 405), (path, name)


def test_the_names_of_files_are_no_oracle(site: Site, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (films / "folder").mkdir()
    (films / "file").write_bytes(b"x")
    monkeypatch.chdir(films)
    answers = {site.get(f"/videos/{name}/media").body for name in ("folder", "file", "nothing")}
    assert len(answers) == 1


def test_what_took_the_place_of_a_video_is_not_sent(site: Site, films: Path) -> None:
    path, size = films / "v1.mp4", (films / "v1.mp4").stat().st_size
    assert site.get("/videos/v1/media").status == 200
    outside = films.parent / "outside"
    outside.write_bytes(b"s" * size)
    path.unlink()
    path.symlink_to(outside)
    assert site.get("/videos/v1/media").error == (404, "NotFound")
    path.unlink()
    os.mkfifo(path)
    assert site.get("/videos/v1/media").error == (404, "NotFound")
    path.unlink()
    path.mkdir()
    assert site.get("/videos/v1/media").error == (404, "NotFound")
    path.rmdir()
    path.write_bytes(b"another file")
    assert site.get("/videos/v1/media").error == (404, "NotFound")
    path.unlink()
    assert site.get("/videos/v1/media").error == (404, "NotFound")


def test_ids_of_another_library_are_unknown(site: Site, tmp_path: Path, films: Path) -> None:
    other = tmp_path / "other"
    with writing(other) as writer:
        install(writer)
        add_file(writer, films / "secret.mp4", 7)
    with SearchService(other) as service:
        key = service.search("7")[0].key
    assert site.get(f"/videos/{key.fingerprint}/media").error == (404, "NotFound")
    assert site.get(f"/similar?clip={key.fingerprint}:{key.start_ms}").status == 400
    assert site.post("/marks", {"clip": list(key)}).status == 400
    assert site.get(f"/videos/{key.fingerprint}/thumbnails/0").error == (404, "NotFound")


def test_a_video_that_was_removed_is_gone(site: Site, folder: Path) -> None:
    assert site.get("/videos/v1/media").status == 200
    path = os.fsencode(site.get("/videos/v1").document["video"])
    forget_path(folder, [path], RemovalSettings(lambda *_: ("", [])))
    assert site.get("/videos/v1/media").error == (404, "NotFound")
    assert site.get("/videos/v1").error == (404, "NotFound")


# --- scripts --------------------------------------------------------------------------------------------------------


ATTRIBUTE = 'said:" onfocus=alert(1) autofocus "'


def test_scripts_in_names_and_words_are_text(site: Site, folder: Path) -> None:
    hostile = "<script>alert(3)</script>"
    with writing(folder) as writer:
        add_video(writer, "titled", [clip(visual=axis(6))], title=hostile, tags={"comment": hostile, hostile: "x"})
    site.post("/marks", {"clip": "v1:0", "list": hostile, "note": hostile, "by": hostile})
    for path in ("/?q=6", "/?q=number", "/?q=4", f"/?q={quote(hostile)}", "/videos/v4", "/videos/titled"):
        answer = site.ask(path)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        check_page(answer.body)
        assert b"<script>alert" not in answer.body
        assert b"<img src=x" not in answer.body
    assert b"&lt;script&gt;" in site.ask("/videos/v4").body
    check_page(site.ask(f"/?q={quote(ATTRIBUTE)}").body)
    check_page(site.ask(f"/videos/v1?t={quote('1 onload=alert(1)')}").body)
    for path in ("/marks", "/search?q=number", "/videos/titled"):
        answer = site.get(path)
        assert answer.headers["content-type"] == "application/json", "no browser takes it for a page"
        assert hostile in str(answer.document) or "<script>" in str(answer.document)


def test_scripts_in_texts_and_in_what_people_write_are_text(site: Site, folder: Path) -> None:
    hostile = "<script>alert(3)</script>"
    texts = [
        Segment(1, 3, hostile, "sidecar", "en", speakers=(hostile, '" onfocus="alert(1)')),
        Segment(2, 4, hostile, "frames", hostile, 0.9, track="screen", box=(0.1, 0.1, 0.2, 0.2)),
        Segment(0, 5, hostile, "chapter", track="text"),
    ]
    bad = Location(f"/films/{hostile}.mp4".encode(), 100, 1, 1)
    with writing(folder) as writer:
        add_video(writer, "texts", [clip(visual=axis(6))], texts, chapters=(Chapter(hostile, 0.0, 5.0),))
        writer.catalog.fail_video("bad", bad, Problem(bad.path, "decode", "damaged", hostile, hostile))
        remember(writer.catalog, [Root(f"/films/{hostile}".encode())])
        writer.catalog.begin_run(hostile)
        writer.publish()
    site.post("/saved", {"name": hostile, "text": hostile.replace("(3)", "")})
    site.post("/marks", {"clip": "texts:0", "list": hostile, "note": '" onfocus="alert(1)', "by": hostile})
    for path in ("/", "/?q=6", "/videos/texts?q=alert&clip=0", "/library", "/marks", f"/marks?list={quote(hostile)}"):
        answer = site.ask(path)
        assert answer.status == 200, path
        check_page(answer.body)
        assert b"<script>alert" not in answer.body, path
    for path in ("/library", "/videos/texts", f"/marks?list={quote(hostile)}"):
        assert b"&lt;script&gt;alert(3)" in site.ask(path).body, path
    subtitles = site.get("/videos/texts/transcript?format=vtt")
    assert subtitles.headers["content-type"].startswith("text/vtt") and b"<script>" not in subtitles.body


def test_a_video_that_is_a_page_stays_a_video(site: Site, films: Path, folder: Path) -> None:
    page = films / "page.mp4"
    page.write_bytes(b"<html><script>alert(1)</script>")
    with writing(folder) as writer:
        add_file(writer, page, 6)
    answer = site.get("/videos/v6/media")
    assert answer.body == page.read_bytes()
    assert not answer.headers["content-type"].startswith("text/")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_bytes_of_a_name_cannot_split_a_header(site: Site, films: Path, folder: Path) -> None:
    path = Path(os.fsdecode(bytes(films) + b'/caf\xe9\r\nset-cookie: a=b";.mp4'))
    path.write_bytes(b"film")
    with writing(folder) as writer:
        add_file(writer, path, 6)
    answer = site.get("/videos/v6/media")
    assert (answer.status, answer.headers["set-cookie"]) == (200, None)
    assert answer.headers["content-disposition"] == (
        "inline; filename*=UTF-8''caf%E9%0D%0Aset-cookie%3A%20a%3Db%22%3B.mp4"
    )
    assert site.ask("/videos/v6").status == 200


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_without_a_token_there_is_nothing(guarded: Site) -> None:
    for headers in (
        {},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {'x' * 32}"},
        {"authorization": f"Basic {TOKENS.write}"},
        {"authorization": f"Bearer {TOKENS.write[:-1]}"},
        {"authorization": f"Bearer {TOKENS.write}é"},
        {"cookie": f"{guarded.settings.cookie}=write.99999999999.{'0' * 64}"},
        {"cookie": f"{guarded.settings.cookie}={TOKENS.write}"},
    ):
        for path in ("/api/v1/status", "/api/v1/search?q=1", "/api/v1/openapi.json", "/api/v1/nothing"):
            answer = guarded.ask(path, headers=headers)
            assert answer.error == (401, "Unauthorized"), (path, headers)
            assert answer.headers["www-authenticate"] == "Bearer"
        page = guarded.ask("/?q=1", headers=headers)
        assert (page.status, b"number" in page.body) == (401, False)
        assert guarded.ask("/api/v1/marks", "POST", b"{}", headers).error == (401, "Unauthorized")
    assert guarded.get("/health").status == guarded.ask("/static/page.css").status == 200


def test_a_token_has_a_scope(guarded: Site) -> None:
    reader, writer = logged_in(guarded, str(TOKENS.read)), logged_in(guarded, TOKENS.write)
    assert reader.get("/search?q=1").status == 200
    assert reader.post("/marks", {"clip": "v1:0"}).error == (403, "Forbidden")
    assert reader.ask("/api/v1/marks/1", "DELETE").error == (403, "Forbidden")
    assert reader.post("/saved", {"name": "x", "text": "y"}).error == (403, "Forbidden")
    made = writer.post("/marks", {"clip": "v1:0"}).document
    assert reader.get("/marks").document == {"marks": [made]}


def test_a_link_logs_in_once(guarded: Site) -> None:
    secret = guarded.sessions.link()
    first = guarded.ask(f"/login?once={secret}")
    assert (first.status, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={SESSION_S}"} <= set(cookie.split("; "))
    browser = replace(guarded, headers={"cookie": cookie.partition(";")[0]})
    assert browser.get("/status").status == 200
    assert browser.post("/marks", {"clip": "v1:0"}).status == 200
    again = guarded.ask(f"/login?once={secret}")
    assert (again.status, "set-cookie" in again.headers) == (401, False)
    check_page(again.body)
    out = browser.ask("/logout", "POST", b"")
    assert "Max-Age=0" in out.headers["set-cookie"]


def test_a_token_logs_in_by_the_form(guarded: Site) -> None:
    page = guarded.ask("/videos/v1?t=3", headers={"sec-fetch-site": "none"})
    assert page.status == 401
    check_page(page.body)
    assert b'value="/videos/v1?t=3"' in page.body
    fields = f"token={TOKENS.read}&next={quote('/videos/v1?t=3')}".encode()
    answer = guarded.ask("/login", "POST", fields)
    assert (answer.status, answer.headers["location"]) == (303, "/videos/v1?t=3")
    browser = replace(guarded, headers={"cookie": answer.headers["set-cookie"].partition(";")[0]})
    assert browser.ask("/videos/v1").status == 200
    assert browser.post("/marks", {"clip": "v1:0"}).error == (403, "Forbidden")
    assert guarded.ask("/login", "POST", b"token=wrong&next=/").status == 401
    for elsewhere in ("https://evil.example", "//evil.example", "/\\evil.example", "/%0d%0aset-cookie:a=b", "x"):
        answer = guarded.ask("/login", "POST", f"token={TOKENS.read}&next={quote(elsewhere)}".encode())
        assert answer.headers["location"].startswith("/") and "evil" not in answer.headers["location"][:3]
        assert answer.headers["location"] in ("/", "/%0d%0aset-cookie:a=b")


def test_a_link_of_another_site_reloads_itself_to_have_its_cookie(guarded: Site) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert b'http-equiv="refresh"' in guarded.ask("/?q=1", headers=link).body
    assert b"refresh" not in guarded.ask("/?q=1", headers={"sec-fetch-site": "same-origin"}).body


def test_logins_are_limited(service: SearchService) -> None:
    limits = replace(Settings().limits, logins_per_minute=3)
    with serving(service, Settings(tokens=TOKENS, limits=limits)) as site:
        answers = [site.ask("/login", "POST", b"token=guess").status for _ in range(4)]
        assert answers == [401, 401, 401, 429]
        assert logged_in(site, TOKENS.write).get("/status").status == 200


def test_cookies_end_with_their_time_and_their_token() -> None:
    now = [1000.0]
    settings = Settings(tokens=TOKENS)
    sessions = Sessions(settings, now=lambda: now[0])
    cookie = {"cookie": sessions.cookie("read").partition(";")[0]}
    assert sessions.scope_of(cookie) == "read"
    forged = {"cookie": cookie["cookie"].replace("read", "write")}
    assert sessions.scope_of(forged) is None
    for other in (Tokens("w" * 32, "R" * 32), Tokens("W" * 32)):
        assert Sessions(Settings(tokens=other), now=lambda: now[0]).scope_of(cookie) is None
    now[0] += SESSION_S + 2
    assert sessions.scope_of(cookie) is None
    secret = sessions.link()
    now[0] += LINK_S + 1
    assert sessions.redeem(secret) is None


def test_tokens_and_cookies_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    equal = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or equal(a, b))
    counts = []
    for token in (TOKENS.write, str(TOKENS.read), "x" * 32, ""):
        TOKENS.scope_of(token)
        counts.append(len(compared))
        assert {len(each) for pair in compared for each in pair} == {32}, "of digests, so that no length shows"
        compared.clear()
    assert counts == [2] * 4, "as many comparisons, whatever is right"
    sessions = Sessions(Settings(tokens=TOKENS))
    cookie = sessions.cookie("write").partition(";")[0]
    assert sessions.scope_of({"cookie": cookie[:-1] + ("0" if cookie[-1] != "0" else "1")}) is None
    assert len(compared) == 1


@pytest.mark.parametrize("token", ["", "short", "x" * 31, "é" * 32, "x" * 31 + "\n"])
def test_weak_tokens_are_refused(token: str) -> None:
    with pytest.raises(UsageError, match="32 characters"):
        Tokens(token)
    with pytest.raises(UsageError, match="must differ"):
        Tokens("x" * 32, "x" * 32)


# --- proxies --------------------------------------------------------------------------------------------------------


def test_only_a_named_proxy_speaks_for_others(service: SearchService) -> None:
    hosts = frozenset({"films.example"})
    sent = {"host": "127.0.0.1", "x-forwarded-host": "films.example", "x-forwarded-proto": "https"}
    with serving(service, Settings(hosts=hosts)) as site:
        assert site.ask("/", headers=sent).error == (421, "UnknownHost")
    with serving(service, Settings(hosts=hosts, proxies=networks(["127.0.0.0/8"]))) as site:
        assert site.ask("/", headers=sent).status == 200
        own = {**sent, "origin": "https://films.example", "content-type": "application/json"}
        assert site.ask("/api/v1/marks", "POST", b'{"clip": "v1:0"}', own).status == 200
        plain = {**own, "origin": "http://films.example"}
        assert site.ask("/api/v1/marks", "POST", b'{"clip": "v1:0"}', plain).error == (403, "CrossSite")
        assert site.ask("/", headers={**sent, "x-forwarded-proto": "gopher"}).error == (400, "BadRequest")


def test_a_root_path_precedes_every_path(service: SearchService) -> None:
    with serving(service, Settings(root_path="/films", tokens=TOKENS)) as site:
        reader = logged_in(site, TOKENS.write)
        for path in ("/films/?q=1", "/?q=1"):  # the proxy may take the root path away, or leave it
            page = reader.ask(path)
            assert page.status == 200
            addresses = re.findall(rb'(?:href|src|action)="([^"]*)"', page.body)
            assert addresses and all(address.startswith((b"/films/", b"#")) for address in addresses)
        assert reader.ask("/films").status == 200
        assert reader.ask("/films/api/v1/status").status == reader.ask("/films/static/page.css").status == 200
        assert site.ask("/films/api/v1/status").error == site.ask("/api/v1/status").error == (401, "Unauthorized")
        cookie = site.ask(f"/films/login?once={site.sessions.link()}").headers
        assert cookie["location"] == "/films/" and "Path=/films;" in cookie["set-cookie"]
        assert reader.ask("/filmsapi/v1/status").error == (404, "NotFound")
    for wrong in ("films", "/films/", "//films", "/fi\nlms"):
        with pytest.raises(UsageError, match="root path"):
            Settings(root_path=wrong)


def test_a_cookie_of_https_is_for_https(service: SearchService) -> None:
    cookie = Sessions(Settings(secure=True, tokens=TOKENS)).cookie("read")
    assert cookie.startswith("__Host-") and cookie.endswith("; Secure")
