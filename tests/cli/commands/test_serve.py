"""`vfindex serve`: what it refuses, its tokens, TLS, and a server that starts, follows a library and stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate

from vfindex.cli.tokens import kept_tokens, tokens_from_environment
from vfindex.storage.errors import UsageError

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
PATIENCE_S = 120
CODE = "from vfindex.cli.entry import main; main()"


@contextmanager
def serving(library: Path, *arguments: str, **env: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """Run `vfindex serve` on a free port; yield its process, the address it prints, and the lines before that."""
    command = [sys.executable, "-c", CODE, "serve", "--library", str(library), "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}) as process:
        try:
            lines: list[str] = []
            assert process.stderr is not None
            for line in process.stderr:
                found = re.match(r"serving on (\S+)  \(Ctrl-C stops\)$", line)
                if found:
                    yield process, found[1], lines
                    break
                lines.append(line)
            else:
                raise AssertionError(f"it does not serve: {lines}")
        finally:
            process.kill()


def test_the_address_for_other_machines_is_printed(library: Path) -> None:
    with serving(library, "--host", "0.0.0.0", VFINDEX_TOKEN="t" * 40) as (_, page, lines):
        port = int(re.sub(r"http://127\.0\.0\.1:(\d+)/login.*", r"\1", page))
        assert lines[-1] == f"other machines reach it at http://{socket.gethostname()}:{port}/\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_starts_without_torch_answers_and_stops(library: Path, number: int) -> None:
    with serving(library) as (process, page, lines):
        assert lines == []
        port = int(page.removeprefix("http://127.0.0.1:").removesuffix("/"))
        connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.request("GET", "/api/v1/status")
        assert b'"videos":2' in connection.getresponse().read()
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists():
            assert not re.search(r"/torch/|/av/|/ray/", maps.read_text())
        process.send_signal(number)
        assert process.stderr is not None
        assert process.stderr.read() == "stopped\n"
        assert process.wait(PATIENCE_S) == 0
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0


def test_a_server_asks_for_the_token_of_the_environment(library: Path) -> None:
    token = "t" * 32
    with serving(library, VFINDEX_TOKEN=token) as (_, page, lines):
        assert lines == []
        found = re.fullmatch(r"http://127.0.0.1:(\d+)/(login\?once=\S+)", page)
        assert found
        port = int(found[1])
        for path, headers, status in (
            ("/api/v1/status", {}, 401),
            ("/api/v1/status", {"authorization": f"Bearer {token}"}, 200),
            (f"/{found[2]}", {}, 303),
            (f"/{found[2]}", {}, 401),
        ):
            connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            connection.request("GET", path, headers=headers)
            assert connection.getresponse().status == status


def test_https(library: Path, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with serving(library, "--cert", str(cert), "--key", str(key)) as (_, page, _lines):
        port = int(page.removeprefix("https://127.0.0.1:").removesuffix("/"))
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        connection = HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_S, context=context)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    "case",
    [
        (("--host", "0.0.0.0"), 2, "others can reach 0.0.0.0, so clients need a token; give --token, which makes one,"),
        (("--host", "192.0.2.1"), 2, "others can reach 192.0.2.1, so clients need a token"),
        (("--host", "no.such.host.invalid"), 2, "others can reach no.such.host.invalid, so clients need a token"),
        (("--proxy", "127.0.0.1"), 2, "a proxy lets others in, so clients need a token"),
        (("--cert", "a.pem"), 2, "--cert and --key go together"),
        (("--cert", "a.pem", "--key", "b.pem"), 2, "a.pem: No such file or directory; give a file in PEM"),
        (("--root-path", "films"), 2, "the root path must begin with a slash"),
        (("--port", "70000"), 2, "give a whole number from 0 to 65535"),
    ],
)
def test_what_is_not_safe_is_refused(
    run: Callable[..., Any], library: Path, home: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[Any, ...]
) -> None:
    arguments, code, sentence = case
    monkeypatch.chdir(home)
    refused = run("serve", "--library", library, "--port", 0, *arguments)
    assert (refused.code, refused.out) == (code, "")
    assert sentence in " ".join(refused.err.replace("│", " ").split())


def test_other_sentences(
    run: Callable[..., Any], library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run("serve", "--library", library, "--port", port)
        taken_by = f"port {port} of 127.0.0.1 is in use, perhaps by another vfindex serve"
        assert (refused.code, refused.err) == (1, f"vfindex: {taken_by}; give another one with --port\n")
    refused = run("serve", "--library", tmp_path / "none", "--port", 0)
    assert (refused.code, "there is no library in" in refused.err) == (1, True)
    monkeypatch.setenv("VFINDEX_TOKEN", "short")
    refused = run("serve", "--library", library, "--port", 0)
    assert (refused.code, "a token must have 32 characters of ASCII or more" in refused.err) == (2, True)
    for name in ("a.pem", "b.pem"):
        (tmp_path / name).write_text("no certificate")
    refused = run("serve", "--library", library, "--cert", tmp_path / "a.pem", "--key", tmp_path / "b.pem")
    assert (refused.code, "no certificate and its private key in PEM" in refused.err) == (2, True)


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the data folder of a user without tokens."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("VFINDEX_TOKEN", "VFINDEX_READ_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_tokens_are_made_once_and_kept_for_this_user_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        made, path = kept_tokens()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.is_relative_to(home)
    assert len(made.write) >= 32 and len(str(made.read)) >= 32
    assert kept_tokens() == (made, path)


@pytest.mark.parametrize(
    "text", ["", "write x read y", f"write {'w' * 32}", f"read {'r' * 32}\nwrite {'w' * 32}", "\xff"]
)
def test_a_file_of_other_tokens_is_refused(home: Path, text: str) -> None:
    _, path = kept_tokens()
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError):
        kept_tokens()


def test_a_file_that_others_may_know_is_refused(home: Path) -> None:
    _, path = kept_tokens()
    path.chmod(0o640)
    with pytest.raises(UsageError, match="other users may read"):
        kept_tokens()
    path.rename(path.with_name("other"))
    path.symlink_to(path.with_name("other"))
    with pytest.raises(UsageError):
        kept_tokens()


def test_tokens_of_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokens_from_environment() is None
    monkeypatch.setenv("VFINDEX_READ_TOKEN", "r" * 32)
    with pytest.raises(UsageError, match="VFINDEX_TOKEN is not"):
        tokens_from_environment()
    monkeypatch.setenv("VFINDEX_TOKEN", "w" * 32)
    found = tokens_from_environment()
    assert found is not None
    assert (found.scope_of("w" * 32), found.scope_of("r" * 32), found.scope_of("x" * 32)) == ("write", "read", None)
