"""Who a client is: a token in a header, or a signed cookie that a token or a link used once has bought."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from threading import Lock

from vfindex.search.http.settings import Scope, Settings

# A login lasts this long; changing the token ends it at once.
SESSION_S = 30 * 24 * 3600
LINK_S = 600
_COOKIE = re.compile(r"(read|write)\.(\d{1,12})\.([0-9a-f]{64})")


class Sessions:
    """Recognises clients by token or cookie, and issues cookies and links. Keeps no list of the logged in."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._settings, self._now = settings, now
        self._links: dict[str, tuple[Scope, float]] = {}
        self._lock = Lock()

    def scope_of(self, headers: Mapping[str, str]) -> Scope | None:
        """Return what a request may do, None for one without a valid token or cookie."""
        tokens = self._settings.tokens
        if tokens is None:
            return "write"
        given = headers.get("authorization")
        if given is not None:
            kind, _, token = given.partition(" ")
            return tokens.scope_of(token.strip()) if kind.lower() == "bearer" else None
        return self._of_cookie(headers.get("cookie", ""))

    def _of_cookie(self, header: str) -> Scope | None:
        tokens = self._settings.tokens
        try:
            cookie = SimpleCookie(header).get(self._settings.cookie)
        except CookieError:
            return None
        match = _COOKIE.fullmatch(cookie.value) if cookie is not None else None
        if match is None or tokens is None or int(match[2]) < self._now():
            return None
        scope: Scope = "read" if match[1] == "read" else "write"
        return scope if hmac.compare_digest(tokens.signature(scope, match[2]), match[3]) else None

    def cookie(self, scope: Scope) -> str:
        """Return the Set-Cookie header of a login."""
        tokens, until = self._settings.tokens, str(int(self._now()) + SESSION_S)
        signature = "" if tokens is None else tokens.signature(scope, until)
        return self._set_cookie(f"{scope}.{until}.{signature}", SESSION_S)

    def end_cookie(self) -> str:
        """Return the Set-Cookie header of a logout."""
        return self._set_cookie("", 0)

    def _set_cookie(self, value: str, age_s: int) -> str:
        path = self._settings.root_path or "/"
        secure = "; Secure" if self._settings.secure else ""
        return f"{self._settings.cookie}={value}; Path={path}; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}"

    def link(self, scope: Scope = "write") -> str:
        """Return a secret that logs in once, within LINK_S."""
        secret = secrets.token_urlsafe(24)
        with self._lock:
            self._links[secret] = (scope, self._now() + LINK_S)
        return secret

    def redeem(self, secret: str) -> Scope | None:
        """Return what a link allows, and end it; None for one that is unknown, used or too old."""
        with self._lock:
            scope, until = self._links.pop(secret, (None, 0.0))
        return scope if until > self._now() else None
