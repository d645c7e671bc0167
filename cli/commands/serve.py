"""vfindex serve"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from socket import gethostname
from threading import Lock
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.extras import EXTRAS, require
from vfindex.cli.options import LibrariesOption, frame_reader, give_image_encoder, library_folders, media_player
from vfindex.cli.output import say
from vfindex.search.http.settings import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    LOOPBACK_NAMES,
    Limits,
    Settings,
    Tokens,
    is_loopback,
    networks,
)
from vfindex.storage.errors import UsageError
from vfindex.storage.machine import usable_cores

if TYPE_CHECKING:
    from vfindex.cli.started_run import RunStarter
    from vfindex.search.engine import SearchEngine
    from vfindex.search.http.sessions import Sessions
    from vfindex.search.mcp.server import ToolServer
    from vfindex.search.service import SearchService
    from vfindex.storage.encoders.pixels import Pixels

NAME = "serve"
EXAMPLE = "vfindex serve --open"
# Hosts that stand for all addresses of this machine, each with the one for itself.
_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def command(
    host: Annotated[str, typer.Option(metavar="ADDR", help="Address to listen on.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0: a free one.")] = DEFAULT_PORT,
    library: LibrariesOption = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    token: Annotated[bool, typer.Option("--token", help="Ask everybody for a token, on this machine too.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Name that clients use for this machine; repeatable.")
    ] = None,
    allow_write: Annotated[
        bool, typer.Option("--allow-write", help="Let clients start a reindex, or a retry of failed files.")
    ] = False,
    cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate in PEM, for https.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Private key of the certificate.")] = None,
    root_path: Annotated[str, typer.Option(metavar="PATH", help="What a proxy puts before every path.")] = "",
    proxy: Annotated[
        list[str] | None, typer.Option(metavar="ADDR", help="Proxy whose forwarded headers count; repeatable.")
    ] = None,
) -> None:
    """Serve a page to search and watch, and a REST interface."""
    require("serve")
    from vfindex.search.http.app import create_app
    from vfindex.search.http.server import Address, bound_socket, check_tls, make_server
    from vfindex.search.http.sessions import Sessions
    from vfindex.search.http.settings import Tools
    from vfindex.search.service import SearchService

    address = Address(host, port, cert, key)
    check_tls(address)
    folders = library_folders(library)
    tokens = _tokens(host, wanted=token, proxied=bool(proxy))
    if not is_loopback(host) and cert is None:
        say("what is asked and shown, tokens too, can be read on the network; give --cert and --key for https")
    with ExitStack() as opened:
        service = opened.enter_context(SearchService(folders, frame_reader(opened), media_player(opened)))
        service.use_gpus()
        service.check()  # before a page is shown
        sock = opened.enter_context(bound_socket(address))
        port = sock.getsockname()[1]
        settings = Settings(
            hosts=_hosts(host, allow_host or ()),
            any_address=not is_loopback(host),
            port=None if proxy else port,
            secure=cert is not None,
            root_path=root_path,
            tokens=tokens,
            proxies=networks(proxy or ()),
            limits=Limits(searches=max(Limits().searches, usable_cores())),
        )
        sessions = Sessions(settings)
        page = _page(host, port, settings)
        if host in _ALL:
            say(f"other machines reach it at {_page(gethostname(), port, settings)}")
        ready = partial(_ready, page, sessions, settings, open_=open_)
        runs = opened.enter_context(_run_starter(folders[0])) if allow_write else None
        app = create_app(service, settings, sessions, Tools(_Pictures(), runs, _agents(service, opened)))
        make_server(app, address, settings.limits, ready).run(sockets=[sock])
    say("stopped")


def _tokens(host: str, *, wanted: bool, proxied: bool) -> Tokens | None:
    """Return the tokens to ask for, None on a machine that asks nobody. Raises UsageError where that is not safe."""
    from vfindex.cli.tokens import kept_tokens, tokens_from_environment

    given = tokens_from_environment()
    if given is not None:
        return given
    if wanted:
        made, path = kept_tokens()
        say(f"the tokens are in {path}")
        return made
    if proxied:
        raise UsageError("a proxy lets others in, so clients need a token; give --token, or set VFINDEX_TOKEN")
    if not is_loopback(host):
        raise UsageError(
            f"others can reach {host}, so clients need a token; give --token, which makes one, or set VFINDEX_TOKEN"
        )
    return None


def _hosts(host: str, named: Iterable[str]) -> frozenset[str]:
    """Return the names that clients may use."""
    own = () if is_loopback(host) else (gethostname(),)
    return frozenset(name.lower().strip("[]") for name in (*LOOPBACK_NAMES, host, *own, *named))


def _run_starter(folder: Path) -> RunStarter:
    """Return what starts runs. Raises VfindexError without the extra `index`."""
    require("index")
    from vfindex.cli.started_run import RunStarter

    return RunStarter(folder)


def _agents(service: SearchService, opened: ExitStack) -> ToolServer | None:
    """Return the tools for agents, closed with `opened`; None without the extra `mcp`."""
    if EXTRAS["mcp"].missing():
        return None
    from vfindex.search.mcp.server import ToolServer
    from vfindex.search.mcp.tools import tools_of

    return opened.enter_context(ToolServer(tools_of(service)))


class _Pictures:
    """Decodes pictures that clients send; gives a library its image encoder before the first one."""

    def __init__(self) -> None:
        from vfindex.indexer.pictures import PictureDecoder

        self._decoder, self._preparing = PictureDecoder(), Lock()

    def prepare(self, engine: SearchEngine) -> None:
        """Raises VfindexError, ModelError."""
        with self._preparing:
            give_image_encoder(engine)

    def read_picture(self, data: bytes, name: str, size_px: int) -> Pixels:
        """Return the picture as `PictureDecoder` does. Raises QueryError."""
        return self._decoder.read_picture(data, name, size_px)


def _page(host: str, port: int, settings: Settings) -> str:
    """Return the address of the search page, on this machine for a host that stands for all of its addresses."""
    host = _ALL.get(host, host)
    scheme = "https" if settings.secure else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{settings.root_path}/"


def _ready(page: str, sessions: Sessions, settings: Settings, *, open_: bool) -> None:
    """Say where the page is, once it can be opened. With tokens: a link that logs in once."""
    if settings.tokens is not None:
        page = f"{page}login?once={sessions.link()}"
    say(f"serving on {page}  (Ctrl-C stops)")
    if open_:
        import webbrowser

        webbrowser.open(page)
