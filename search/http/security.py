"""The gate that every request passes: the names it may use, where it may come from, who may ask, and how much.

Sources: Fetch Metadata (W3C), RFC 9110, RFC 6265bis (SameSite), CSP Level 3. docs/security.md lists the rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from vfindex.search.http.limits import Incomplete, LimitedBody, RateLimit, too_large, too_many
from vfindex.search.http.pages import login_page, problem_response
from vfindex.search.http.rest.answers import Refusal
from vfindex.search.http.sessions import Sessions
from vfindex.search.http.settings import Scope, Settings, is_address, is_loopback

API = "/api/"
# What anybody may ask for: whether the server is up, how to log in, and the looks of that page.
OPEN_PATHS = ("/api/v1/health", "/login")
STATIC = "/static/"
SAFE_METHODS = frozenset({"GET", "HEAD"})
METHODS = SAFE_METHODS | {"POST", "DELETE", "PUT"}
# Questions with pictures, which no address can hold, and calls of tools: they change nothing.
WITH_PICTURES, MCP = frozenset({"/api/v1/search", "/"}), "/mcp"
# Steps of a question that another machine asks of several libraries; they may name a thousand hits.
MEMBER = "/api/v1/member"
READING_POSTS = WITH_PICTURES | {MCP, MEMBER}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
        "font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
_HEADERS = [(name.encode("ascii"), value.encode("ascii")) for name, value in HEADERS.items()]
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """How a client reached the server: who it is, and the scheme and host it used. port: None for the default one."""

    client: str
    scheme: str
    host: str
    port: int

    @property
    def site(self) -> str:
        """The address of the server, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}")


class Gate:
    """ASGI middleware: refuses what may not pass, and gives every answer its security headers."""

    def __init__(self, app: ASGIApp, settings: Settings, sessions: Sessions) -> None:
        limits = settings.limits
        self._app, self._settings, self._sessions = app, settings, sessions
        self._rate = RateLimit(limits.requests_per_s, limits.burst)
        self._logins = RateLimit(limits.logins_per_minute / 60, limits.logins_per_minute)

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        scope = self._below_root(scope)
        guarded = _with_headers(send)
        body = LimitedBody(receive, self._most_bytes(scope), self._settings.limits.body_s)
        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, guarded)
                return
            await self._app(scope, body, guarded)
        except Refusal as exc:
            await problem_response(scope, exc)(scope, receive, guarded)
        except Incomplete:
            return  # the answer is not complete, so the server closes the connection

    def _below_root(self, scope: Connection) -> Connection:
        """Return the request with the root path before its path, whether or not the proxy took it away."""
        root, path = self._settings.root_path, str(scope["path"])
        below = path if not path.startswith(f"{root}/") else path[len(root) :]
        return {**scope, "root_path": root, "path": root + ("/" if path == root else below)}

    def _refusal(self, scope: Connection) -> Response | None:
        """Return the answer to a request that may not pass, None for one that may. Notes what it may do."""
        headers, path = _headers(scope, self._settings.limits.head_bytes), _path(scope)
        origin = self._origin(scope, headers)
        self._check_host(origin)
        self._check_site(scope["method"], path, headers, origin)
        self._check_rate(scope["method"], path, origin.client)
        if int(headers.get("content-length") or 0) > self._most_bytes(scope):
            raise too_large(self._most_bytes(scope))
        allowed = self._sessions.scope_of(headers)
        site = origin.site + self._settings.root_path
        scope["state"] = {**scope.get("state", {}), "client": origin.client, "scope": allowed, "site": site}
        if allowed is None and path not in OPEN_PATHS and not path.startswith(STATIC):
            if path.startswith(API) or scope["method"] != "GET":
                raise Refusal(
                    *(401, "Unauthorized", "give the server's token, as in: Authorization: Bearer TOKEN"),
                    headers={"www-authenticate": "Bearer"},
                )
            return login_page(scope, is_from_elsewhere=headers.get("sec-fetch-site") in ("cross-site", "same-site"))
        if allowed == "read" and self._needed(scope["method"], path) == "write":
            raise Refusal(403, "Forbidden", "this token may only read; use the one that may write")
        return None

    @staticmethod
    def _needed(method: str, path: str) -> Scope:
        reads = method in SAFE_METHODS or path in READING_POSTS or path in ("/login", "/logout")
        return "read" if reads else "write"

    def _most_bytes(self, scope: Connection) -> int:
        limits = self._settings.limits
        return limits.upload_bytes if _path(scope) in WITH_PICTURES | {MEMBER} else limits.body_bytes

    # --- who asks, and by which name --------------------------------------------------------------------------------

    def _origin(self, scope: Connection, headers: Mapping[str, str]) -> Origin:
        """Return client, scheme and host; those that a proxy forwards, if it is a named one. Raises Refusal."""
        client, scheme = _plain_address((scope.get("client") or ("", 0))[0]), str(scope["scheme"])
        host = headers.get("host", "")
        if self._is_proxy(client):
            client = self._forwarded_client(headers.get("x-forwarded-for", "")) or client
            scheme = headers.get("x-forwarded-proto", scheme).strip().lower()
            host = headers.get("x-forwarded-host", host).strip()
        if scheme not in _DEFAULT_PORTS:
            raise Refusal(400, "BadRequest", "the proxy forwards a scheme that is neither http nor https")
        name, port = _split(host)
        return Origin(client, scheme, name, port or _DEFAULT_PORTS[scheme])

    def _forwarded_client(self, header: str) -> str:
        """Return the last address that is no named proxy: those before it are what the client says."""
        for text in reversed([each.strip() for each in header.split(",")]):
            try:
                address = ipaddress.ip_address(_plain_address(text))
            except ValueError:
                return ""
            if not any(address in network for network in self._settings.proxies):
                return _plain_address(text)
        return ""

    def _is_proxy(self, client: str) -> bool:
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        return any(address in network for network in self._settings.proxies)

    def _check_host(self, origin: Origin) -> None:
        """Raise Refusal for a name that is not this server's: a page of another site that has its name point here."""
        settings = self._settings
        known = origin.host in settings.hosts or (settings.any_address and is_address(origin.host))
        if not known or (settings.port is not None and origin.port != settings.port):
            raise Refusal(
                *(421, "UnknownHost"),
                "this server does not answer to that name; use the address it printed, or start it with --allow-host",
            )

    def _check_site(self, method: str, path: str, headers: Mapping[str, str], origin: Origin) -> None:
        """Raise Refusal for a request that a page of another site made."""
        if method not in METHODS:
            raise Refusal(405, "MethodNotAllowed", f"the method {method[:20]} is not used here")
        site, of = headers.get("sec-fetch-site"), headers.get("origin")
        is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate" and not path.startswith(API)
        is_link = is_link and headers.get("sec-fetch-dest") == "document"
        if site is not None and site not in ("same-origin", "none") and not is_link:
            raise _cross_site()
        if of is not None and not _is_same(of, origin):
            raise _cross_site()

    # --- how often --------------------------------------------------------------------------------------------------

    def _check_rate(self, method: str, path: str, client: str) -> None:
        """Raise Refusal for a client that asks too often; on this machine only for logins."""
        if path == "/login" and (wait_s := self._logins.take(client)):
            raise too_many(wait_s)
        if not is_loopback(client) and (wait_s := self._rate.take(client)):
            raise too_many(wait_s)


def _cross_site() -> Refusal:
    return Refusal(403, "CrossSite", "a page of another site made this request; open the page of this server instead")


def _path(scope: Connection) -> str:
    """Return the path of a request below the root path."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root) else path


def _headers(scope: Connection, most_bytes: int) -> dict[str, str]:
    """Return the headers by name. Raises Refusal for too many, and for one given twice that decides who asks."""
    sizes = (len(name) + len(value) for name, value in scope["headers"])
    if sum(sizes) + len(scope["raw_path"]) + len(scope["query_string"]) > most_bytes:
        raise Refusal(431, "TooLarge", f"address and headers have more than {most_bytes:,} bytes")
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1")
        if name in found and name in ("host", "origin", "authorization", "sec-fetch-site", "content-length"):
            raise Refusal(400, "BadRequest", f"the request has two headers {name}")
        found[name] = f"{found[name]}, {value.decode('latin-1')}" if name in found else value.decode("latin-1")
    return found


def _plain_address(client: str) -> str:
    """Return an address, of IPv4 as such: a socket for IPv6 that serves both writes ::ffff:10.0.0.7."""
    try:
        mapped = ipaddress.IPv6Address(client).ipv4_mapped
    except ValueError:
        return client
    return client if mapped is None else str(mapped)


def _split(host: str) -> tuple[str, int | None]:
    """Return name and port of a Host header; ("", None) for one that is wrong."""
    try:
        parts = urlsplit(f"//{host}")
        is_plain = parts.netloc == host and "@" not in host
        return (parts.hostname or "" if is_plain else ""), parts.port
    except ValueError:
        return "", None


def _is_same(of: str, origin: Origin) -> bool:
    """Return whether an Origin header names the server itself."""
    try:
        parts = urlsplit(of)
        return (parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)) == (
            *(origin.scheme, origin.host, origin.port),
        )
    except ValueError:
        return False


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name for name, _ in message.get("headers", ())}
            more = [(name, value) for name, value in _HEADERS if name not in given]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sending
