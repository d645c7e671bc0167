"""The official client of the Model Context Protocol, for the tests of the tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from httpx2 import AsyncClient
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, TextContent, Tool

PATIENCE_S = 120


@dataclass(frozen=True)
class Agent:
    """A client of a server: its address, or the command that starts it. Each call is a connection of its own."""

    server: str | StdioServerParameters
    token: str = ""

    def tools(self) -> dict[str, Tool]:
        """Return the tools by name."""

        async def listed(client: Client) -> list[Tool]:
            return (await client.list_tools()).tools

        return {tool.name: tool for tool in self._with(listed)}

    def instructions(self) -> str:
        async def read(client: Client) -> str:
            return client.instructions or ""

        return str(self._with(read))

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the document that a tool answers."""
        [document] = self.calls((tool, arguments))
        return document

    def calls(self, *calls: tuple[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the documents of several calls, in one connection."""
        return [document_of(each) for each in self.results(*calls)]

    def fails(self, tool: str, **arguments: Any) -> str:
        """Return the sentence that a tool refuses with."""
        [result] = self.results((tool, arguments))
        assert result.is_error and len(result.content) == 1
        assert isinstance(result.content[0], TextContent)
        return result.content[0].text

    def results(self, *calls: tuple[str, Mapping[str, Any]]) -> list[CallToolResult]:
        async def called(client: Client) -> list[CallToolResult]:
            return [await client.call_tool(tool, dict(arguments)) for tool, arguments in calls]

        found: list[CallToolResult] = self._with(called)
        return found

    def _with(self, ask: Any) -> Any:
        async def run() -> Any:
            async with asyncio.timeout(PATIENCE_S):
                async with AsyncExitStack() as opened:
                    server: Any = self.server
                    if isinstance(server, str):
                        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
                        http = await opened.enter_async_context(AsyncClient(headers=headers, timeout=PATIENCE_S))
                        server = streamable_http_client(server, http_client=http)
                    return await ask(await opened.enter_async_context(Client(server)))

        return asyncio.run(run())


def document_of(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    assert isinstance(result.content[0], TextContent)
    document: dict[str, Any] = json.loads(result.content[0].text)
    return document


def images_of(result: CallToolResult) -> list[ImageContent]:
    return [each for each in result.content if isinstance(each, ImageContent)]
