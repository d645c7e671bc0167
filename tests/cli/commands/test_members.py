"""`--library https://...`: hits of servers, what is said of those that are missing, tokens, and what takes none."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate
from library_maker import add_video, axis, clip, install
from serving import Site, serving

from vfindex.cli.commands import search as search_module
from vfindex.cli.members import library_tokens
from vfindex.search.http.settings import Settings, Tokens
from vfindex.search.remote.connection import Connection
from vfindex.search.service import SearchService
from vfindex.storage.errors import UsageError
from vfindex.storage.writer import writing

TOKEN = "secret-of-this-server-0123456789-abcdef"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of this user's data."""
    for name in ("XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("VFINDEX_LIBRARY_TOKENS", raising=False)
    monkeypatch.setattr("vfindex.cli.members.data_folder", lambda: tmp_path)
    monkeypatch.setattr("vfindex.cli.last_search.state_folder", lambda: tmp_path / "state")
    return tmp_path


@pytest.fixture
def site(run: Any, library: Path, home: Path) -> Iterator[Site]:
    """Return a server, with a token, of a library with the spec of the one here."""
    other = home / "other"
    with writing(other) as writer:
        install(writer)
        for name in ("c", "d\x1b[31m"):
            add_video(writer, name, [clip(visual=axis(1), speech=axis(2))])
        writer.publish()
    assert run("spec", "export", home / "spec.json", "--library", library, "--library", other).code == 0
    for folder in (library, other):
        assert run("spec", "use", home / "spec.json", "--library", folder).code == 0
    with SearchService(other) as service, serving(service, Settings(tokens=Tokens(TOKEN))) as running:
        yield running


def keep_token(home: Path, *lines: str, mode: int = 0o600) -> Path:
    path = home / "library-tokens"
    path.write_text("\n".join(lines))
    path.chmod(mode)
    return path


def test_hits_of_a_server_beside_those_here(run: Any, site: Site, library: Path, home: Path) -> None:
    place = f"http://127.0.0.1:{site.port}"
    keep_token(home, f"{place} {TOKEN}")
    both = ("--library", library, "--library", f"{place}/")
    ran = run("search", "words", "--all", "--json", *both)
    document = json.loads(ran.out)
    assert (ran.code, ran.err, document["missing"]) == (0, "", [])
    assert {hit["library"] for hit in document["hits"]} == {str(library), place}
    assert len(document["hits"]) == 4
    ran = run("search", "words", "--all", "--explain", *both)
    assert f"127.0.0.1:{site.port}:/videos/c" in ran.out and "\x1b" not in ran.out and "d\\x1b[31m" in ran.out
    alone = run("search", "words", "--all", "--library", place, "--json")
    assert alone.code == 0 and {hit["library"] for hit in json.loads(alone.out)["hits"]} == {place}
    sheet = run("search", "words", "--all", "--sheet", home / "hits.png", *both)
    assert sheet.code == 0 and (home / "hits.png").stat().st_size > 0
    assert run("search", '"no such words"', *both).code == 1
    refused = run("search", "--clip", home / "clip.mp4", "--library", place)
    assert refused.code == 2 and "need the models of a library on this machine" in refused.err


def test_the_environment_names_a_server_too(run: Any, site: Site, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"http://127.0.0.1:{site.port}"
    monkeypatch.setenv("VFINDEX_LIBRARY", place)
    monkeypatch.setenv("VFINDEX_LIBRARY_TOKENS", f"{place} {TOKEN}")
    assert len(json.loads(run("search", "words", "--all", "--json").out)["hits"]) == 2
    refused = run("status")
    assert refused.code == 2 and "only search and open take" in refused.err


def test_a_server_that_is_missing_is_named(run: Any, site: Site, library: Path, home: Path) -> None:
    place = f"http://127.0.0.1:{site.port}"
    for json_ in ((), ("--json",)):
        ran = run("search", "words", "--all", "--library", library, "--library", place, *json_)
        assert ran.code == 3 and ran.out
        if not json_:
            reason = "it asks for a token, and none is set for it; docs/libraries.md says where to put it"
            assert ran.err == f"{place}: {reason}; its videos are not among the hits\n"
        else:
            assert ran.err == "" and json.loads(ran.out)["missing"] == [{"library": place, "reason": reason}]
    keep_token(home, f"{place} {TOKEN}x")
    ran = run("search", '"no such words"', "--library", library, "--library", place)
    assert ran.code == 3 and "it refuses the token" in ran.err and TOKEN not in ran.err + ran.out
    with socket.create_server(("127.0.0.1", 0)) as sock:
        down = f"http://127.0.0.1:{sock.getsockname()[1]}"
    ran = run("search", "words", "--library", down, "--json")
    assert ran.code == 1 and json.loads(ran.out)["error"]["kind"] == "LibraryError"
    assert "cannot be reached" in json.loads(ran.out)["error"]["message"]


def forge_key(answer: Any) -> None:
    answer["hits"][0]["hit"]["key"] = ["\ud800", 0]


def forge_video(answer: Any) -> None:
    answer["hits"][0]["hit"]["video"] = "c"


def forge_scores(answer: Any) -> None:
    answer["clips"][0]["scores"] = dict.fromkeys(answer["clips"][0]["scores"], 1.7e308)


def forge_calibration(answer: Any) -> None:
    answer["facts"]["calibration"] = "[" * 100_000


@pytest.mark.parametrize(
    "forged",
    [
        ("hits", forge_key, 3),
        ("hits", forge_video, 0),
        ("candidates", forge_scores, 3),
        ("statistics", forge_calibration, 3),
    ],
)
def test_what_a_server_answers_is_printed_or_it_is_missing(
    run: Any, site: Site, library: Path, home: Path, monkeypatch: pytest.MonkeyPatch, forged: tuple[str, Any, int]
) -> None:
    step, forge, code = forged
    place = f"http://127.0.0.1:{site.port}"
    keep_token(home, f"{place} {TOKEN}")
    ask = Connection.ask

    def asked(self: Any, name: str, *arguments: Any) -> Any:
        answer = ask(self, name, *arguments)
        if name == step:
            forge(answer)
        return answer

    monkeypatch.setattr(Connection, "ask", asked)
    monkeypatch.setattr(search_module, "print_hits", lambda hits, **_: search_module._print_table(hits))
    for json_ in ((), ("--json",)):
        ran = run("search", "words", "--all", "--library", library, "--library", place, *json_)
        assert ran.code == code, ran.err
        assert json_ or (code == 3) == ("its answer is not one of vfindex serve" in ran.err)


def test_https_with_a_certificate_of_ones_own(
    run: Any, library: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = certificate(home, "localhost")
    with SearchService(library) as service, serving(service, Settings(tokens=Tokens(TOKEN)), files=files) as site:
        place = f"https://localhost:{site.port}"
        keep_token(home, f"{place} {TOKEN}")
        assert "its certificate is not trusted" in run("search", "words", "--library", place).err
        monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
        assert run("search", "words", "--all", "--library", place).code == 0


def test_open_shows_the_page_of_a_server(
    run: Any, site: Site, library: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"http://127.0.0.1:{site.port}"
    keep_token(home, f"{place} {TOKEN}")
    both = ("--library", library, "--library", place)
    hits = json.loads(run("search", "words", "--all", "--json", *both).out)["hits"]
    assert run("search", "words", "--all", *both).code == 0
    [kept] = (home / "state" / "searches").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and TOKEN not in kept.read_text()
    number = next(hit["rank"] for hit in hits if hit["key"] == ["c", 0])
    started: list[list[str]] = []

    def execvp(_: str, arguments: list[str]) -> None:
        started.append(arguments)
        raise OSError(2, os.strerror(2))

    monkeypatch.setattr("vfindex.cli.commands.open.os.execvp", execvp)
    monkeypatch.setattr("vfindex.cli.commands.open.which", lambda _: "/bin/opener")
    ran = run("open", number, *both)
    [[_, page]] = started
    assert page == f"{place}/videos/c?clip=0&t=0.000&end=5.000" and page in ran.err and ran.code == 1
    answer = site.ask(page.removeprefix(place), headers={"authorization": f"Bearer {TOKEN}", "accept": "text/html"})
    assert answer.status == 200
    monkeypatch.setattr("vfindex.cli.commands.open.which", lambda _: None)
    assert f"open this page in a browser: {page}" in run("open", number, *both).err


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "a"),
        ("status",),
        ("list",),
        ("serve",),
        ("mcp",),
        ("export", "csv", "a"),
        ("mark", "1"),
        ("runs", "list"),
    ],
)
def test_other_commands_take_no_address(run: Any, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments, "--library", "https://user:pass-word@films.example")
    assert ran.code == 2 and "it is the address of a server, which only search and open take" in ran.err
    assert "pass-word" not in ran.err


@pytest.mark.parametrize(
    "place", ["http://films.example", "https://user:pass-word@films.example", "ftp://films.example"]
)
def test_wrong_addresses_are_refused(run: Any, home: Path, place: str) -> None:
    ran = run("search", "x", "--library", place)
    assert ran.code == 2 and ran.err.count("\n") == 1 and "pass-word" not in ran.err


def test_a_file_of_tokens_that_others_may_read_is_refused(run: Any, home: Path) -> None:
    path = keep_token(home, f"https://films.example {TOKEN}", mode=0o640)
    ran = run("search", "x", "--library", "https://films.example")
    assert ran.code == 2 and f"other users may read {path}" in ran.err and f"run: chmod 600 {path}" in ran.err
    assert TOKEN not in ran.err
    path.unlink()
    (home / "elsewhere").write_text(f"https://films.example {TOKEN}")
    (home / "elsewhere").chmod(0o600)
    path.symlink_to(home / "elsewhere")
    with pytest.raises(UsageError, match="chmod 600"):
        library_tokens()


def test_the_environment_comes_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_token(home, "https://a.example 1", "https://b.example 2")
    monkeypatch.setenv("VFINDEX_LIBRARY_TOKENS", "https://b.example 3")
    assert library_tokens() == {"https://a.example": "1", "https://b.example": "3"}
