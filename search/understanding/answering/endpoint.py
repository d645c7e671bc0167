"""A chat endpoint of the user's own (OpenAI-style): one question, one answer, within limits of time and size."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vfindex.search.remote.address import Address, Role
from vfindex.search.remote.json_http import JsonConnection, NoAnswer, Peer
from vfindex.storage.errors import UsageError

# The route that servers of this kind share, after the address and its path.
PATH = "/v1/chat/completions"
# A model on a processor writes some ten words a second; three sentences are well within.
ANSWER_S = 60.0
MAX_BYTES = 1 << 20
# Of its answer. Three sentences have a hundred; a model that runs on is cut.
MAX_TOKENS = 400
MAX_MODEL_CHARS = 200
_OTHER = "its answer is not one of an OpenAI-style chat endpoint"
_ROLE = Role(
    "an endpoint",
    "https://llm.example/v1, or http://localhost:11434 on this machine",
    "put its key into VFINDEX_LLM_KEY",
    "the key, the question and what the videos say",
    "",
)
_PEER = Peer(_OTHER, "docs/ask.md")
_STATUS = {
    401: "it refuses the key, or asks for one; set VFINDEX_LLM_KEY",
    403: "it refuses the key; set another in VFINDEX_LLM_KEY",
    404: "it has no such model, or no chat under this address; check --llm and --model",
    429: "it has too many questions at once; ask again later",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where answers are phrased, and by which model. key: sent to this address alone, and shown nowhere.

    timeout_s: for one answer, connecting included.
    """

    address: Address
    model: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = ANSWER_S

    @classmethod
    def parse(cls, text: str, model: str, key: str | None = None, timeout_s: float = ANSWER_S) -> Endpoint:
        """Return the endpoint at `https://HOST[:PORT][/PATH]`, or `http://` on this machine; /v1 may end the path.

        Raises UsageError.
        """
        address = Address.parse(text, _ROLE)
        if not model.strip() or len(model) > MAX_MODEL_CHARS:
            raise UsageError(f"name the model of {address} with --model, as in: --model qwen2.5:7b")
        if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
            raise UsageError("VFINDEX_LLM_KEY is not a key; it has characters that no key has")
        path = address.path.removesuffix("/v1")
        return cls(Address(address.scheme, address.host, address.port, path), model, key, timeout_s)

    def complete(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the model's answer to a conversation. Raises NoAnswer with a clause that says why there is none."""
        connection = JsonConnection(self.address, self.key, _PEER)
        document = {
            "model": self.model,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "stream": False,
        }
        try:
            status, data = connection.post(PATH, document, time.monotonic() + self.timeout_s, MAX_BYTES)
            if status != 200:
                raise NoAnswer(_STATUS.get(status, f"it answers with the status {status}"))
            return _content(connection.parsed(data))
        finally:
            connection.close()


def _content(document: Mapping[str, object]) -> str:
    """Return the text of the first choice. Raises NoAnswer for a document of another form."""
    match document:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
    raise NoAnswer(_OTHER)
