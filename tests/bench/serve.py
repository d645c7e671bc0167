"""Questions of many clients to `vfindex serve`, and streams that are dropped: rates, times, and what is left behind.

    python tests/bench/serve.py LIBRARY [--clients 50] [--questions 5000] [--streams 20]

Starts a server of the library on a free port. Each client has one connection and asks one question after the other,
each of them new, so that no answer is cached. Prints requests a second, median, 95th and 99th percentile, and errors;
of the server its processor time a question, its memory before and after, and its peak. Then starts streams of encoded
spans, drops each, twice, and compares the processes, files and threads after both. Exits with 1 for an error, or if
anything is left.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import quote

WORDS = ("dog", "cat", "man", "car", "street", "water", "beach", "snow", "tree", "music", "horse", "train", "bird")
CODE = "from vfindex.cli.entry import main; main()"
PATIENCE_S = 120
# In which the processes of dropped streams end.
SETTLED_S = 10


@contextmanager
def served(library: Path) -> Iterator[tuple[int, int]]:
    """Yield the process id and the port of a server."""
    command = [sys.executable, "-c", CODE, "serve", "--library", str(library), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            began_s = time.monotonic()
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r":(\d+)/", line)
            if found is None:
                raise SystemExit(line)
            print(f"started in {time.monotonic() - began_s:.2f} s, {cpu_s(process.pid):.2f} s of processor")
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop the server
            yield process.pid, int(found[1])
        finally:
            process.terminate()


def cpu_s(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1000 if found else 0.0


def left(pid: int) -> dict[str, int]:
    """Return how many processes, files and threads a server has."""
    children = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            children += stat.read_text().rpartition(")")[2].split()[1] == str(pid)
        except OSError:
            continue
    return {
        "processes": children,
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
    }


def ask(port: int, first: int, count: int, times_s: list[float], errors: list[str]) -> None:
    """Ask `count` questions over one connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    for number in range(first, first + count):
        words = f"{WORDS[number % len(WORDS)]} {WORDS[number // len(WORDS) % len(WORDS)]} {number}"
        began_s = time.perf_counter()
        try:
            connection.request("GET", f"/api/v1/search?q={quote(words)}&k=10")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as exc:
            errors.append(repr(exc))
            connection.close()
            continue
        times_s.append(time.perf_counter() - began_s)
        if answer.status != 200:
            errors.append(f"{answer.status} {body[:100]!r}")
    connection.close()


def measure_questions(pid: int, port: int, clients: int, questions: int) -> bool:
    """Print what questions take; return whether all were answered."""
    ask(port, 10**6, 5, [], [])
    memory, used_s, began_s = memory_mb(pid), cpu_s(pid), time.monotonic()
    times_s: list[float] = []
    errors: list[str] = []
    each = questions // clients
    threads = [threading.Thread(target=ask, args=(port, n * each, each, times_s, errors)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s, ordered = time.monotonic() - began_s, sorted(times_s)
    p50, p95, p99 = (1000 * ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.95, 0.99))
    print(f"{len(times_s)} questions of {clients} clients: {len(times_s) / took_s:.1f} a second")
    print(f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms; {len(errors)} errors {errors[:3]}")
    print(f"server: {1000 * (cpu_s(pid) - used_s) / max(1, len(times_s)):.1f} ms of processor a question")
    print(f"memory: {memory:.0f} MB before, {memory_mb(pid):.0f} MB after, {peak_mb(pid):.0f} MB at the peak")
    return not errors


def measure_streams(pid: int, port: int, streams: int) -> bool:
    """Drop streams; return whether nothing more is left of the second round than of the first, which starts threads."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", "/api/v1/videos?limit=20")
    videos = [each["fingerprint"] for each in json.loads(connection.getresponse().read())["videos"]]
    connection.close()
    remains = [left(pid)]
    for _ in range(2):
        for number in range(streams):
            stream = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            stream.request("GET", f"/api/v1/videos/{videos[number % len(videos)]}/stream?rung=transcode")
            if number % 2:
                stream.getresponse().read(1000)
            stream.close()
        time.sleep(SETTLED_S)
        remains.append(left(pid))
    print(f"{streams} streams: {remains[0]} before, {remains[1]} after, {remains[2]} after as many more")
    return all(remains[2][name] <= remains[1][name] for name in remains[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--streams", type=int, default=20)
    chosen = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with served(chosen.library) as (pid, port):
        answered = measure_questions(pid, port, chosen.clients, chosen.questions)
        clean = measure_streams(pid, port, chosen.streams)
    sys.exit(0 if answered and clean else 1)


if __name__ == "__main__":
    main()
