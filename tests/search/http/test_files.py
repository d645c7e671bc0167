"""Files by byte ranges and conditional requests, as RFC 9110 has them; and floods of ranges."""

from __future__ import annotations

import email
import os
from contextlib import suppress
from pathlib import Path

import pytest
from serving import CONTENT, Answer, Site, add_file, eventually

from vfindex.search.http.files import MAX_RANGES
from vfindex.storage.writer import writing

MEDIA = "/videos/v1/media"
WHOLE = CONTENT + b"\x01"
SIZE = len(WHOLE)


def parts(answer: Answer) -> list[tuple[str, bytes]]:
    """Return (Content-Range, body) of each part of a multipart answer, as the email package reads it."""
    head = f"content-type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body)
    return [(str(part["content-range"]), bytes(part.get_payload(decode=True))) for part in message.get_payload()]


def test_a_whole_file(site: Site) -> None:
    answer = site.get(MEDIA)
    assert (answer.status, answer.body) == (200, WHOLE)
    assert answer.headers["content-length"] == str(SIZE)
    assert answer.headers["accept-ranges"] == "bytes"
    head = site.ask(f"/api/v1{MEDIA}", "HEAD", headers={"range": "bytes=0-1"})
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(SIZE))


@pytest.mark.parametrize(
    "given, first, end",
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=9000-", 9000, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        ("bytes=-999999", 0, SIZE),
        ("bytes=10000-999999", 10000, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("Bytes= 3-4 ", 3, 5),
        ("bytes=3-4,", 3, 5),
        ("bytes=3-4,99999999-", 3, 5),
    ],
)
def test_one_range(site: Site, given: str, first: int, end: int) -> None:
    answer = site.get(MEDIA, range=given)
    assert (answer.status, answer.body) == (206, WHOLE[first:end])
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(end - first)


def test_several_ranges_are_parts(site: Site) -> None:
    answer = site.get(MEDIA, range="bytes=500-503,0-1,-3")
    assert answer.status == 206
    assert answer.headers["content-length"] == str(len(answer.body))
    assert parts(answer) == [
        (f"bytes 500-503/{SIZE}", WHOLE[500:504]),
        (f"bytes 0-1/{SIZE}", WHOLE[:2]),
        (f"bytes {SIZE - 3}-{SIZE - 1}/{SIZE}", WHOLE[-3:]),
    ]


@pytest.mark.parametrize("given", [f"bytes={SIZE}-", "bytes=99999999-", "bytes=-0"])
def test_a_range_beyond_the_file(site: Site, given: str) -> None:
    answer = site.get(MEDIA, range=given)
    assert answer.error == (416, "RangeNotSatisfiable")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "given",
    [
        "bytes=9-5",
        "bytes=a-b",
        "bytes=-",
        "bytes=",
        "bytes",
        "lines=0-1",
        "bytes=0-1;2-3",
        "bytes=0-1,x",
        "bytes=--1",
        "bytes=0-1-2",
        "bytes=\u0663-".encode().decode("latin-1"),
        "bytes=0-10,5-15",
        "bytes=0-,0-",
        "bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(MAX_RANGES + 1)),
        "bytes=" + ",".join(["0-"] * 1500),
        "bytes=" + "9" * 4000 + "-",
    ],
)
def test_a_range_that_is_wrong_or_a_flood_is_left_out(site: Site, given: str) -> None:
    answer = site.get(MEDIA, range=given)
    assert (answer.status, answer.body) == (200, WHOLE)


def test_a_file_that_the_client_has_is_not_sent(site: Site, films: Path) -> None:
    first = site.get(MEDIA)
    tag, date = first.headers["etag"], first.headers["last-modified"]
    for condition in ({"if_none_match": tag}, {"if_none_match": f'"x", W/{tag}'}, {"if_modified_since": date}):
        answer = site.get(MEDIA, **condition)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    for condition in ({"if_none_match": '"x"', "if_modified_since": date}, {"if_modified_since": "yesterday"}):
        assert site.get(MEDIA, **condition).status == 200
    os.utime(films / "v1.mp4", (0, 0))
    assert site.get(MEDIA, if_none_match=tag).status == 200


def test_a_range_of_a_file_that_changed_is_the_whole_file(site: Site, films: Path) -> None:
    first = site.get(MEDIA)
    tag, date = first.headers["etag"], first.headers["last-modified"]
    for condition in (tag, date):
        assert site.get(MEDIA, range="bytes=0-1", if_range=condition).status == 206
    os.utime(films / "v1.mp4", (0, 0))
    for condition in (tag, date, f"W/{tag}", "yesterday"):
        answer = site.get(MEDIA, range="bytes=0-1", if_range=condition)
        assert (answer.status, answer.body) == (200, WHOLE)


def test_an_empty_file(site: Site, films: Path, folder: Path) -> None:
    (films / "empty.mp4").write_bytes(b"")
    with writing(folder) as writer:
        add_file(writer, films / "empty.mp4", 6)
    assert site.get("/videos/v6/media").body == b""
    assert site.get("/videos/v6/media", range="bytes=0-").error == (416, "RangeNotSatisfiable")


def test_a_file_that_becomes_shorter_ends_the_connection(
    site: Site, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pread", lambda handle, size, at, read=os.pread: read(handle, size, at) if at < 5 else b"")
    monkeypatch.setattr("vfindex.search.http.files.CHUNK_BYTES", 5)
    answer = site.raw(b"GET /api/v1%b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % (MEDIA.encode(), site.port))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == WHOLE[:5]
    assert site.get("/health").status == 200


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists open files there")
def test_files_are_closed(site: Site, films: Path) -> None:
    for headers in ({}, {"range": "bytes=0-1"}, {"range": "bytes=99999999-"}, {"if_none_match": "*"}):
        site.get(MEDIA, **headers)
    site.ask(f"/api/v1{MEDIA}", "HEAD")
    assert eventually(lambda: not opened(films)), "a client may have its answer just before the file is closed"


def opened(folder: Path) -> list[str]:
    """Return the files of a folder that this process has open."""
    paths = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            paths.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in paths if path.startswith(str(folder))]
