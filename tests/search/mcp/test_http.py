"""The tools of a server: behind its gate, with its tokens, and without a method but POST."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from agent import Agent
from serving import Site, serving

from vfindex.search.http.settings import Settings, Tokens, Tools, networks
from vfindex.search.mcp.documents import NOTICE
from vfindex.search.mcp.server import ToolServer
from vfindex.search.mcp.tools import tools_of
from vfindex.search.service import SearchService

TOKENS = Tokens("w" * 32, "r" * 32)
PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@contextmanager
def with_tools(service: SearchService, settings: Settings | None = None) -> Iterator[Site]:
    with ExitStack() as opened:
        server = opened.enter_context(ToolServer(tools_of(service)))
        yield opened.enter_context(serving(service, settings, Tools(agents=server)))


@pytest.fixture
def site(service: SearchService) -> Iterator[Site]:
    with with_tools(service) as running:
        yield running


def test_both_tokens_read_and_nobody_without_one(service: SearchService) -> None:
    with with_tools(service, Settings(tokens=TOKENS)) as site:
        address = f"http://127.0.0.1:{site.port}/mcp"
        for token in (TOKENS.write, TOKENS.read or ""):
            assert Agent(address, token).call("get_video", video="v0")["video"] == "v0"
        assert site.ask("/mcp", "POST", PING, HEADERS).error == (401, "Unauthorized")
        wrong = {**HEADERS, "authorization": f"Bearer {'x' * 32}"}
        assert site.ask("/mcp", "POST", PING, wrong).error == (401, "Unauthorized")


def test_every_tool_answers_behind_the_token(service: SearchService) -> None:
    calls: dict[str, dict[str, Any]] = {
        "search_moments": {"query": "line 2"},
        "find_similar": {"clip": "v1:0"},
        "get_transcript": {"video": "v0"},
        "show_frames": {"video": "v0", "times_s": [1]},
        "get_video": {"video": "v0"},
        "library_status": {},
        "ask_library": {"question": "line 2"},
        "get_chapters": {"video": "v0"},
        "summarise_video": {"video": "v0"},
        "find_unusual": {},
        "find_duplicates": {},
        "list_labels": {},
    }
    with with_tools(service, Settings(tokens=TOKENS)) as site:
        agent = Agent(f"http://127.0.0.1:{site.port}/mcp", TOKENS.read or "")
        assert agent.tools().keys() == calls.keys(), "no tool that writes"
        assert all(document["notice"] == NOTICE for document in agent.calls(*calls.items()))


def test_other_names_and_other_sites_are_refused(site: Site) -> None:
    assert site.ask("/mcp", "POST", PING, HEADERS).document == {"jsonrpc": "2.0", "id": 1, "result": {}}
    for headers, error in (
        ({"host": "evil.example"}, (421, "UnknownHost")),
        ({"origin": "http://evil.example"}, (403, "CrossSite")),
        ({"sec-fetch-site": "cross-site"}, (403, "CrossSite")),
    ):
        assert site.ask("/mcp", "POST", PING, {**HEADERS, **headers}).error == error
    for method in ("GET", "DELETE", "PUT"):
        assert site.ask("/mcp", method, None, HEADERS).error == (405, "MethodNotAllowed")
    assert site.ask("/mcp", "POST", b" " * (65 << 10), HEADERS).error == (413, "TooLarge")


def test_a_server_without_tools_has_no_such_path(service: SearchService) -> None:
    with serving(service) as site:
        assert site.ask("/mcp", "POST", PING, HEADERS).error == (404, "NotFound")


def test_links_lead_where_the_client_came_from(service: SearchService) -> None:
    settings = Settings(root_path="/films", hosts=frozenset({"archive.example"}), proxies=networks(["127.0.0.1"]))
    with with_tools(service, settings) as site:
        call = {"name": "get_video", "arguments": {"video": "v0"}}
        asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}).encode()
        forwarded = {"x-forwarded-host": "archive.example", "x-forwarded-proto": "https", **HEADERS}
        answer = site.ask("/films/mcp", "POST", asked, forwarded).document
        document = json.loads(answer["result"]["content"][0]["text"])
        assert document["link"] == "https://archive.example/films/videos/v0?t=0.000"
