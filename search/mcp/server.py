"""The tools as a server of the Model Context Protocol: on standard input and output, or as an ASGI application."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Self

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from starlette.types import Receive, Scope, Send

from vfindex import __version__
from vfindex.search.export.selection import file_url
from vfindex.search.mcp.documents import Link, untrusted
from vfindex.search.mcp.params import object_schema
from vfindex.search.mcp.tool import Answer, Call
from vfindex.search.mcp.tool import Tool as OfferedTool
from vfindex.search.mcp.tools import INSTRUCTIONS
from vfindex.storage.errors import VfindexError

# Calls at a time; further ones wait.
THREADS = 4
# Of an error, which may have names of videos.
MAX_SENTENCE = 2000


class ToolServer:
    """Serves tools. Calls run in threads, each with a time limit.

    `close` cancels those that wait for their turn; those that run learn of it, as of the end of their time and of a
    client that cancels.
    """

    def __init__(self, offered: list[OfferedTool]) -> None:
        self._tools = {each.name: each for each in offered}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="vfindex-agent")
        self._closed = threading.Event()
        self._server: Server[Any] = Server(
            "vfindex",
            version=__version__,
            title="vfindex",
            instructions=INSTRUCTIONS,
            on_list_tools=self._list,
            on_call_tool=self._call,
        )
        self._server.middleware.clear()  # it would record calls where OpenTelemetry is set up
        self._http = StreamableHTTPSessionManager(self._server, json_response=True, stateless=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def serve_stdio(self) -> None:
        """Serve one client until it closes standard input. Meanwhile what others print goes to standard error."""
        async with stdio_server() as (read, write):
            await self._server.run(read, write, self._server.create_initialization_options())

    def running(self) -> AbstractAsyncContextManager[None]:
        """Return the context in which this object, an ASGI application, answers. There is one, once."""
        return self._http.run()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._http.asgi_app(scope, receive, send)

    # --- the protocol -----------------------------------------------------------------------------------------------

    async def _list(self, context: ServerRequestContext[Any], _: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[_described(each) for each in self._tools.values()])

    async def _call(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name[:50]!a}; there are {', '.join(self._tools)}")
        over = threading.Event()
        asked = Call(_link(context.request), lambda: over.is_set() or self._closed.is_set())
        try:
            async with asyncio.timeout(tool.within_s):
                answer = await asyncio.wrap_future(self._pool.submit(tool.answer, params.arguments or {}, asked))
        except VfindexError as exc:
            return _failed(str(exc))
        except TimeoutError:
            return _failed(f"{tool.name} did not end within {tool.within_s:g} s; ask for less, or try again later")
        finally:
            over.set()
        return CallToolResult(content=_content(answer))


def _described(tool: OfferedTool) -> Tool:
    annotations = ToolAnnotations(
        title=tool.title,
        read_only_hint=not tool.writes,
        destructive_hint=False,
        idempotent_hint=not tool.writes,
        open_world_hint=False,
    )
    return Tool(
        name=tool.name,
        title=tool.title,
        description=tool.about,
        input_schema=object_schema(tool.params),
        annotations=annotations,
    )


def _content(answer: Answer) -> list[ContentBlock]:
    """Return an answer as text, a JSON document, and images.

    Not as structured content too: clients that know it may show it instead of the images.
    """
    text = json.dumps(answer.document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    images = [ImageContent(data=base64.b64encode(each).decode(), mime_type="image/webp") for each in answer.images]
    return [TextContent(text=text), *images]


def _failed(sentence: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=untrusted(sentence, MAX_SENTENCE) or "")], is_error=True)


def _link(request: Any) -> Link:
    """Return what makes addresses: pages of the server that was asked over HTTP, else files with a media fragment."""
    state = {} if request is None else request.scope.get("state", {})
    if "site" not in state:
        return _file_link
    return partial(_page_link, state["site"])


def _page_link(site: str, path: bytes | None, fingerprint: str, start_s: float, end_s: float | None) -> str:
    return f"{site}/videos/{urllib.parse.quote(fingerprint)}?t={max(0.0, start_s):.3f}"


def _file_link(path: bytes | None, fingerprint: str, start_s: float, end_s: float | None) -> str | None:
    """Return a file's URL with a temporal fragment (W3C Media Fragments, 4.2.1)."""
    if path is None:
        return None
    end = "" if end_s is None else f",{end_s:.3f}"
    return f"{file_url(path)}#t={max(0.0, start_s):.3f}{end}"
