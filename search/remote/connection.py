"""Questions to a server of vfindex, over one connection; its answers are objects, its errors become clauses."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from vfindex import __version__
from vfindex.search.remote.address import Address
from vfindex.search.remote.json_http import JsonConnection, NoAnswer, Peer
from vfindex.storage.errors import LibraryChanged, LibraryUnreachable

PATH = "/api/v1/member"
# Until a server has answered one step of a question.
ANSWER_S = 20.0
# The largest answer: 10,000 candidates of a search for 1,000 hits have 50 MB.
MAX_BYTES = 64 << 20
_PEER = Peer("its answer is not one of vfindex serve", "docs/libraries.md")
# Characters that are shown of what a server says.
_SHOWN_CHARS = 200
_NOT_THERE = "no vfindex of this version answers there; check the address, or install {version} there"
_NO_TOKEN = "it asks for a token, and none is set for it; docs/libraries.md says where to put it"
_WRONG_TOKEN = "it refuses the token; docs/libraries.md says which one it takes"


class Connection:
    """A connection to a server, opened at the first question. token: None for a server that asks nobody for one."""

    def __init__(self, address: Address, token: str | None) -> None:
        self._address, self._token = address, token
        self._http = JsonConnection(address, token, _PEER)

    def end(self) -> None:
        """Close the connection permanently, also under a call that waits."""
        self._http.end()

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        self._http.close()

    def ask(self, step: str, question: Mapping[str, Any], until_s: float | None) -> dict[str, Any]:
        """Return the answer to one step of a question. until_s: of time.monotonic; None: ANSWER_S.

        Raises LibraryUnreachable with a clause that says why there is none.
        """
        most_s = time.monotonic() + ANSWER_S
        end_s = most_s if until_s is None else min(until_s, most_s)
        try:
            status, data = self._http.post(PATH, {"step": step, "question": question}, end_s, MAX_BYTES)
            if status != 200:
                self._refused(status, data)
            return self._http.parsed(data)
        except NoAnswer as exc:
            raise LibraryUnreachable(str(self._address), str(exc)) from exc

    def _refused(self, status: int, data: bytes) -> NoReturn:
        """Raise what an answer that is an error means."""
        kind, message = _error_in(data)
        if self._token is not None:
            message = message.replace(self._token, "...")
        if status == 401:
            self._http.fail(_WRONG_TOKEN if self._token else _NO_TOKEN)
        if kind == LibraryChanged.__name__:
            self.close()
            reason = "it changes too fast to be searched; ask again after its run"
            raise LibraryUnreachable(str(self._address), reason, has_changed=True)
        # Forbidden: a token for reading may ask questions, but post nothing to any other path.
        if status in (404, 405) or kind in ("UnknownParameter", "Forbidden"):
            self._http.fail(_NOT_THERE.format(version=f"vfindex {__version__}"))
        self._http.fail(f"it answers: {message}" if message else f"it answers with the status {status}")


def _error_in(data: bytes) -> tuple[str, str]:
    """Return kind and message of an error of vfindex, empty for any other; what it says is on one line."""
    try:
        error = json.loads(data)["error"]
        kind, message = error["kind"], error["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", ""
    if not isinstance(kind, str) or not isinstance(message, str):
        return "", ""
    return kind, "".join(char if char.isprintable() else "?" for char in message)[:_SHOWN_CHARS]
