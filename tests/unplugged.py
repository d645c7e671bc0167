"""Runs a command without a network and records its DNS lookups and connection attempts. As a program: the inner part.

`unplugged(command)` runs a command in its own network and mount namespaces. Their name server records every name and
answers that it does not exist; a default route leads to a socket that records the destinations of packets.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

# From linux/sockios.h, linux/if.h and linux/route.h.
SIOCADDRT, SIOCSIFFLAGS, IFF_UP, RTF_UP = 0x890B, 0x8914, 1, 1
ETH_P_IP = 0x0800
NXDOMAIN = 0x8183  # an answer, recursion desired and available, no such name
FILES = {
    "/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass(frozen=True)
class Seen:
    """The network use of a command. lookups: names. connections: addresses outside the loopback network."""

    code: int
    out: str
    err: str
    lookups: list[str]
    connections: list[str]


def unplugged(command: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Seen:
    """Run a command without a network. Skips the test if namespaces are not permitted."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("there is no unshare here: it comes with util-linux")
    unshare = ["unshare", "--net", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    tried = subprocess.run([*unshare, sys.executable, "-c", ""], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"namespaces are not permitted here: {tried.stderr.strip()}")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        inside = [*unshare, sys.executable, __file__, str(report), *command]
        done = subprocess.run(inside, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert report.exists(), done.stderr
        return Seen(done.returncode, done.stdout, done.stderr, **json.loads(report.read_text(encoding="utf-8")))


def main(report: str, *command: str) -> int:
    """Run a command in the namespaces of this process; write the record to a file; return the exit code."""
    for place, text in FILES.items():
        own = Path(report).with_name(Path(place).name)
        own.write_text(text, encoding="utf-8")
        if Path(place).exists():
            subprocess.run(["mount", "--bind", str(own), place], check=True)
    _open_loopback()
    lookups: list[str] = []
    connections: list[str] = []
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    threading.Thread(target=_answer, args=(server, lookups), daemon=True).start()
    threading.Thread(target=_watch, args=(wire, connections), daemon=True).start()
    code = subprocess.run(command, check=False).returncode
    seen = {"lookups": lookups, "connections": sorted(set(connections))}
    Path(report).write_text(json.dumps(seen), encoding="utf-8")
    return code


def _open_loopback() -> None:
    """Set up the loopback interface with a default route through it, which receives all outgoing packets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        anywhere = struct.pack("H14x", socket.AF_INET)
        name = ctypes.create_string_buffer(b"lo")
        device = ctypes.addressof(name)
        # struct rtentry: pad, destination, gateway, mask, flags, ..., the device's name, mtu, window, irtt.
        route = struct.pack("@L16s16s16sHhLPhPLLH", 0, *[anywhere] * 3, RTF_UP, 0, 0, 0, 0, device, 0, 0, 0)
        fcntl.ioctl(control, SIOCADDRT, route)


def _answer(server: socket.socket, lookups: list[str]) -> None:
    """Answer every DNS query with NXDOMAIN."""
    while True:
        query, client = server.recvfrom(4096)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace"))
            at += 1 + query[at]
        lookups.append(".".join(labels))
        server.sendto(query[:2] + struct.pack(">5H", NXDOMAIN, 1, 0, 0, 0) + query[12 : at + 5], client)


def _watch(wire: socket.socket, connections: list[str]) -> None:
    """Record the destinations of IPv4 packets that are not for this machine."""
    while True:
        packet = wire.recv(65536)
        if packet[16] != 127:
            connections.append(socket.inet_ntoa(packet[16:20]))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
