"""How a library is served: names, tokens, limits and tools. Imports little, as the command line's help reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, Union

from vfindex.storage.errors import UsageError

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from vfindex.search.engine import SearchEngine
    from vfindex.search.mcp.server import ToolServer
    from vfindex.storage.encoders.pixels import Pixels

# read: search and watch. write: also marks, lists and saved questions.
Scope = Literal["read", "write"]
# What clients may start. Both find their files by themselves: no client names a path.
RunCommand = Literal["reindex", "retry"]
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8421
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
# 32 characters of base64 are 192 bits; a sentence of that length is hard to guess too.
MIN_TOKEN_CHARS = 32
Network: TypeAlias = Union["IPv4Network", "IPv6Network"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What clients identify themselves with. Raises UsageError for short tokens."""

    write: str
    read: str | None = None

    def __post_init__(self) -> None:
        for token in (self.write, self.read):
            if token is not None and (len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable()):
                raise UsageError(
                    f"a token must have {MIN_TOKEN_CHARS} characters of ASCII or more, and this one has {len(token)}; "
                    "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
                )
        if self.read == self.write:
            raise UsageError("the tokens for reading and for writing must differ")

    def scope_of(self, token: str) -> Scope | None:
        """Return what a token allows, None for an unknown one. Takes the same time for every token of one length."""
        import hmac

        given = _digest(token)
        is_write = hmac.compare_digest(given, _digest(self.write))
        is_read = hmac.compare_digest(given, _digest(self.read or "")) and self.read is not None
        return "write" if is_write else "read" if is_read else None

    def signature(self, scope: Scope, text: str) -> str:
        """Return what proves that a holder of the token of this scope signed a text."""
        import hmac

        key = self.write if scope == "write" or self.read is None else self.read
        return hmac.new(key.encode("ascii"), f"{scope}|{text}".encode(), "sha256").hexdigest()


def _digest(token: str) -> bytes:
    import hashlib

    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all together, may take. Sizes in bytes, times in seconds.

    searches, tasks: at a time. waiting, waiting_tasks: that wait for their turn; further ones are refused.
    requests_per_s, burst: of one client that is not on this machine.
    """

    body_bytes: int = 64 << 10
    upload_bytes: int = 24 << 20
    head_bytes: int = 16 << 10
    head_s: float = 10.0
    body_s: float = 30.0
    # A paused player reads nothing; it asks for the rest of a file again.
    stalled_s: float = 120.0
    search_s: float = 20.0
    searches: int = 4
    waiting: int = 256
    # Tasks beyond one search, as finding the same footage: each by itself may use all cores.
    task_s: float = 60.0
    tasks: int = 2
    waiting_tasks: int = 16
    connections: int = 500
    requests_per_s: float = 50.0
    burst: int = 600
    logins_per_minute: int = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """How a library is served.

    hosts: names that clients may use, in lower case, without a port. any_address: they may also use any IP address, as
    on a machine that has several: no name of another site is one. port: that clients use; None: any. secure: whether
    clients come by https. tokens: None asks nobody for one. proxies: whose forwarded headers are trusted. root_path:
    what a proxy puts before every path, "" or as "/videos".
    """

    hosts: frozenset[str] = frozenset(LOOPBACK_NAMES)
    any_address: bool = False
    port: int | None = None
    secure: bool = False
    root_path: str = ""
    tokens: Tokens | None = None
    proxies: tuple[Network, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        path = self.root_path
        if path and (not path.startswith("/") or path.endswith("/") or "//" in path or not path.isprintable()):
            raise UsageError(f"the root path must begin with a slash and end without one, as in /videos, not {path!r}")

    @property
    def cookie(self) -> str:
        """The name of the cookie. Browsers share cookies among the ports of a host, so it names the port."""
        name = f"vfindex-{self.port or 0}"
        return f"__Host-{name}" if self.secure and not self.root_path else name


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, and no name."""
    from ipaddress import ip_address

    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks of addresses, as 10.0.0.7 or 10.0.0.0/24. Raises UsageError."""
    from ipaddress import ip_network

    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as exc:
        raise UsageError(f"a proxy is an address or a network, as in 10.0.0.7 or 10.0.0.0/24: {exc}") from exc


# --- what a server has beside its service ---------------------------------------------------------------------------


class PictureReader(Protocol):
    """Decodes untrusted pictures, in a confined child process, for the image encoder of a library."""

    def prepare(self, engine: SearchEngine) -> None:
        """Give a library its image encoder, if it has none yet. Raises ModelError, VfindexError."""

    def read_picture(self, data: bytes, name: str, size_px: int) -> Pixels:
        """Return (height, width, 3) uint8 RGB, upright, the short side `size_px`. Raises QueryError."""


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run that a client started. exit_code: None while it runs. message: the last line that it printed."""

    command: RunCommand
    started_at: str
    exit_code: int | None
    message: str


class RunsStarter(Protocol):
    """Starts runs in a process of their own; `cli.started_run.RunStarter` does."""

    def start(self, command: RunCommand) -> StartedRun:
        """Start a command; return it. Raises LibraryLocked while another one runs, VfindexError."""

    def state(self) -> StartedRun | None:
        """Return the run that was started last, None before the first."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a server has beside its service. None: it does without, and says so."""

    pictures: PictureReader | None = None
    runs: RunsStarter | None = None
    agents: ToolServer | None = None
