"""Attacks on every parameter of every endpoint, generated from the table of endpoints, and on those of the pages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from library_maker import add_video, axis, clip, install
from serving import SCRIPT, Answer, Site, check_page, logged_in, serving

from vfindex import __version__ as VERSION
from vfindex.search.http.rest.api import Api
from vfindex.search.http.rest.endpoints import FORM, Endpoint, Param, endpoints_of
from vfindex.search.http.rest.media import Media
from vfindex.search.http.rest.understanding import Understanding
from vfindex.search.http.security import MEMBER
from vfindex.search.http.settings import Limits, Settings, Tokens, Tools
from vfindex.search.service import SearchService
from vfindex.storage.writer import writing

TOKENS = Tokens("w" * 32, "r" * 32)
SECRET = "secret.mp4"
HOSTILE = (
    f"../{SECRET}",
    f"v1/../{SECRET}",
    f"....//{SECRET}",
    SECRET,
    "/etc/passwd",
    "file:///etc/passwd",
    "C:\\windows\\win.ini",
    f"..\\{SECRET}",
    "v1\0",
    "v1\r\nset-cookie: a=b",
    "\ud800",
    "'; DROP TABLE video; --",
    "{{7*7}}${7*7}",
    SCRIPT,
    "a" * 9000,
    "",
)
# What other parameters of an endpoint have while one is attacked.
VALID: Mapping[str, str] = {
    "fingerprint": "v1",
    "start_ms": "0",
    "id": "1",
    "q": "1",
    "clip": "v1:0",
    "like": "v1:0",
    "filters": "",
    "command": "reindex",
    "name": "n",
    "new_name": "m",
    "text": "dog",
    "format": "csv",
    "video": "v1",
    "track": "speech",
    "start_s": "0",
    "end_s": "1",
    "original": "x",
    "step": "statistics",
    "question": json.dumps(
        {"version": VERSION, "text": "1", "top_k": 3, "per_video": 1, "weights": {}, "exact": False, "likes": []}
    ),
}


def table() -> list[Endpoint]:
    """Return all endpoints; nothing answers them."""
    service = SearchService("nothing")
    handlers = Api(service, Limits(), Tools()), Understanding(service, Limits()), Media(service, Limits())
    found = [endpoint for each in handlers for endpoint in endpoints_of(each)]
    for each in handlers:
        each.close()
    return found


ENDPOINTS = table()
ATTACKED = [
    (endpoint, param) for endpoint in ENDPOINTS for param in (*endpoint.in_path, *endpoint.query, *endpoint.body)
]


def name_of(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


def request_of(
    endpoint: Endpoint, attacked: str = "", value: str = ""
) -> tuple[str, str, bytes | None, dict[str, str]]:
    """Return path, method, body and headers of a request that is right but for one parameter."""

    def chosen(params: tuple[Param, ...]) -> dict[str, str]:
        given = {each.name: VALID[each.name] for each in params if each.required}
        if endpoint.path.endswith("/export") and attacked not in ("q", "list", "video"):
            given["q"] = VALID["q"]
        return {**given, **({attacked: value} if attacked in {each.name for each in params} else {})}

    path = endpoint.path
    for param in endpoint.in_path:
        text = value if param.name == attacked else VALID[param.name]
        path = path.replace(f"{{{param.name}}}", quote(text.encode("utf-8", "surrogatepass"), safe=""))
    query = urlencode({n: t.encode("utf-8", "surrogatepass") for n, t in chosen(endpoint.query).items()})
    path += f"?{query}" if query else ""
    fields = chosen(endpoint.body)
    if endpoint.takes_pictures:
        parts = [f'--b\r\ncontent-disposition: form-data; name="{n}"\r\n\r\n{t}\r\n' for n, t in fields.items()]
        body = "".join([*parts, "--b--\r\n"]).encode("utf-8", "surrogatepass")
        return path, endpoint.method, body, {"content-type": f"{FORM}; boundary=b"}
    if endpoint.body:
        numbers = {each.name for each in endpoint.body if each.kind == "number" and each.name != attacked}
        objects = {each.name for each in endpoint.body if each.kind == "object" and each.name != attacked}
        document = {name: float(text) if name in numbers else text for name, text in fields.items()}
        document |= {name: json.loads(fields[name]) for name in objects & fields.keys()}
        return path, endpoint.method, json.dumps(document).encode(), {"content-type": "application/json"}
    return path, endpoint.method, None, {}


def asked(site: Site, endpoint: Endpoint, attacked: str = "", value: str = "", **headers: str) -> Answer:
    path, method, body, own = request_of(endpoint, attacked, value)
    return site.ask(path, method, body, {**own, **{name.replace("_", "-"): text for name, text in headers.items()}})


class Opened:
    """Paths that this process opens while it is watched."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.watching = False
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if self.watching and event == "open":
            self.paths.append(str(args[0]))


OPENED = Opened()


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Return the list of the paths that are opened, which grows."""
    OPENED.paths.clear()
    OPENED.watching = True
    yield OPENED.paths
    OPENED.watching = False


def test_every_endpoint_answers_what_is_right(site: Site) -> None:
    answers = {name_of(each): asked(site, each).status for each in ENDPOINTS}
    assert set(answers.values()) <= {200, 400, 403, 404, 501}, answers
    assert len([status for status in answers.values() if status == 200]) > len(answers) / 2, answers


def test_no_parameter_opens_a_file_or_runs_a_script(
    site: Site, films: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(films)
    for endpoint, param in ATTACKED:
        for value in HOSTILE:
            answer = asked(site, endpoint, param.name, value)
            what = (name_of(endpoint), param.name, value, answer.status, answer.body[:300])
            assert answer.status in (200, 400, 403, 404, 405, 409, 413, 431, 501), what
            assert answer.headers["content-type"].partition(";")[0] != "text/html", what
            assert answer.headers["x-content-type-options"] == "nosniff", what
            assert "set-cookie" not in answer.headers, what
            assert b"not in the library" not in answer.body and b"root:x:" not in answer.body, what
            assert b"Traceback" not in answer.body and b"sqlite" not in answer.body.lower(), what
            assert answer.status < 400 or answer.error[0] == answer.status, what
    assert not [path for path in opened if path.endswith((SECRET, "passwd", "win.ini"))]


def test_an_id_of_another_library_is_unknown_everywhere(site: Site, tmp_path: Path) -> None:
    with writing(tmp_path / "other") as writer:
        install(writer)
        add_video(writer, "foreign", [clip(visual=axis(7))])
        writer.publish()
    for endpoint, param in ATTACKED:
        if param.kind in ("video", "clip"):
            tail = ":0" if param.kind == "clip" else ""
            of_other, of_none = (asked(site, endpoint, param.name, name + tail) for name in ("foreign", "nothing"))
            what = (name_of(endpoint), param.name, of_other.body)
            assert of_other.status in (400, 404, 501), what
            assert of_other.body.replace(b"foreign", b"nothing") == of_none.body, what


def test_nothing_is_changed_for_another_site_or_without_the_right(service: SearchService) -> None:
    with serving(service, Settings(tokens=TOKENS)) as guarded:
        reader, writer = logged_in(guarded, str(TOKENS.read)), logged_in(guarded, TOKENS.write)
        for endpoint in ENDPOINTS:
            if endpoint.method == "GET" or endpoint.takes_pictures or endpoint.path == MEMBER:
                continue  # they read
            what = name_of(endpoint)
            assert asked(guarded, endpoint).error == (401, "Unauthorized"), what
            assert asked(reader, endpoint).error == (403, "Forbidden"), what
            for site in ("cross-site", "same-site"):
                assert asked(writer, endpoint, sec_fetch_site=site).error == (403, "CrossSite"), what
            assert asked(writer, endpoint, origin="https://evil.example").error == (403, "CrossSite"), what
            assert asked(writer, endpoint, host="evil.example").error == (421, "UnknownHost"), what
            wrong = f"Bearer {TOKENS.write[:-1]}x"
            assert asked(writer, endpoint, authorization=wrong).error == (401, "Unauthorized"), what
    assert service.marks().marks == () and service.saved_queries().saved == ()


def test_unknown_and_repeated_parameters_are_refused_everywhere(site: Site) -> None:
    for endpoint in ENDPOINTS:
        path, method, body, headers = request_of(endpoint)
        more = "&" if "?" in path else "?"
        assert site.ask(f"{path}{more}colour=red", method, body, headers).error == (400, "UnknownParameter"), path
        for param in endpoint.query:
            if not param.many:
                twice = f"{path}{more}{param.name}=1&{param.name}=1"
                assert site.ask(twice, method, body, headers).error == (400, "WrongParameter"), twice


PAGES = {
    "/": ("q", "like", "first", "all"),
    "/videos/v1": ("q", "t", "end", "clip"),
    "/ask": ("q", "all"),
    "/findings": ("show", "filters"),
    "/marks": ("list",),
    "/library": ("filters", "first", "library"),
    "/login": ("once", "next"),
}


@pytest.mark.parametrize("page", PAGES)
def test_no_parameter_of_a_page_opens_a_file_or_runs_a_script(
    page: str, site: Site, films: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(films)
    for name in PAGES[page]:
        for value in (*HOSTILE, '" onfocus=alert(1) autofocus "', "javascript:alert(1)", "//evil.example", "7" * 400):
            query = urlencode({name: value.encode("utf-8", "surrogatepass")})
            answer = site.ask(f"{page}?{query}", headers={"accept": "text/html"})
            assert answer.status in (200, 400, 401, 404, 429), (query, answer.status)
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert "set-cookie" not in answer.headers
            assert b"<script>alert" not in answer.body and b"<img src=x" not in answer.body
            assert b"Traceback" not in answer.body and b"root:x:" not in answer.body
            check_page(answer.body)
    assert not [path for path in opened if path.endswith((SECRET, "passwd", "win.ini"))]
