"""The tokens of `vfindex serve`: from the environment, or kept in a file that only this user can read."""

from __future__ import annotations

import os
import secrets
import shlex
from pathlib import Path

from vfindex.cli.options import LLM_KEY, data_folder, own_text
from vfindex.search.http.settings import Tokens
from vfindex.storage.errors import UsageError

TOKEN_NAMES = ("VFINDEX_TOKEN", "VFINDEX_READ_TOKEN")
# Of other servers, see `members`; no run needs them either.
SECRET_NAMES = (*TOKEN_NAMES, "VFINDEX_LIBRARY_TOKENS", LLM_KEY)
_FILE = "serve-tokens"


def tokens_from_environment() -> Tokens | None:
    """Return the tokens of VFINDEX_TOKEN and VFINDEX_READ_TOKEN, None without the first. Raises UsageError."""
    write, read = map(os.environ.get, TOKEN_NAMES)
    if read and not write:
        raise UsageError("VFINDEX_READ_TOKEN is set and VFINDEX_TOKEN is not; set both, or the second alone")
    return Tokens(write, read or None) if write else None


def kept_tokens() -> tuple[Tokens, Path]:
    """Return the tokens in this user's data folder, and their file; made if there is none yet. Raises UsageError."""
    folder = data_folder()
    path = folder / _FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _read(path), path
    except OSError as exc:
        raise UsageError(f"{path} cannot be made ({exc.strerror}); set VFINDEX_TOKEN instead") from exc
    made = Tokens(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(f"write {made.write}\nread {made.read}\n")
    return made, path


def _read(path: Path) -> Tokens:
    again = f"delete it, and vfindex serve makes another: rm {shlex.quote(str(path))}"
    words = own_text(path, again).split()
    if len(words) != 4 or words[::2] != ["write", "read"]:
        raise UsageError(f"{path} does not hold the two tokens of vfindex serve; {again}")
    return Tokens(words[1], words[3])
