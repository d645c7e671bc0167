"""Where a library on another machine is served, and the token for it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from vfindex.storage.errors import UsageError

_PATH = re.compile(r"(/[\w.~-]+)*/?", re.ASCII)
_PORTS = {"http": 80, "https": 443}
_MAX_CHARS = 500


@dataclass(frozen=True, slots=True)
class Role:
    """How messages speak of what answers at an address. secret: where its token belongs. sent: what is private."""

    name: str
    example: str
    secret: str
    sent: str
    help: str


LIBRARY = Role(
    "a library",
    "https://films.example:8421",
    "put its token into VFINDEX_LIBRARY_TOKENS or the file library-tokens (docs/libraries.md)",
    "its token, the questions and the answers",
    " (docs/http.md says how to serve it)",
)


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server. path: what a proxy puts before every path, "" or as "/films"."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str, role: Role = LIBRARY) -> Address:
        """Return the address of `https://HOST[:PORT][/PATH]`, or `http://` on this machine. Raises UsageError."""
        wrong = f"is no address of {role.name}; write it as {role.example}"
        if "@" in text:  # the sentence does not repeat what may be a password
            raise UsageError(
                f"the address of {role.name} may hold no user and no password, which others on this machine could "
                f"read; {role.secret}"
            )
        try:
            parts = urlsplit(text)
            port, host = parts.port, (parts.hostname or "").rstrip(".").encode("idna").decode("ascii")
        except ValueError as exc:
            raise UsageError(f"{_shown(text)} {wrong}") from exc
        is_plain = text.isprintable() and not any(char.isspace() for char in text)  # urlsplit drops line ends
        if (
            not is_plain
            or parts.scheme not in _PORTS
            or not host
            or parts.query
            or parts.fragment
            or not _PATH.fullmatch(parts.path)
        ):
            raise UsageError(f"{_shown(text)} {wrong}")
        made = cls(parts.scheme, host, _PORTS[parts.scheme] if port is None else port, parts.path.rstrip("/"))
        if made.scheme == "http" and not made.is_loopback:
            raise UsageError(f"{made} is not encrypted: {role.sent} could be read on the network; use https{role.help}")
        return made

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, or at the end of a tunnel that begins here."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a token is for."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    def __str__(self) -> str:
        return self.origin + self.path


def parse_tokens(text: str, name: str) -> Mapping[str, str]:
    """Return origin -> token of a text of `ORIGIN TOKEN` pairs; a line that begins with # is a comment.

    name: of the text, in errors, which never hold a token. Raises UsageError.
    """
    words = [word for line in text.splitlines() if not line.lstrip().startswith("#") for word in line.split()]
    form = f"{name} must hold pairs of an address and its token, as in: https://films.example:8421 TOKEN"
    if len(words) % 2:
        raise UsageError(form)
    tokens: dict[str, str] = {}
    for place, token in zip(words[::2], words[1::2], strict=True):
        if "://" not in place or "://" in token or not token.isascii() or not token.isprintable():
            raise UsageError(form)
        tokens[Address.parse(place).origin] = token
    return tokens


def _shown(text: str) -> str:
    return ascii(text[:_MAX_CHARS])
