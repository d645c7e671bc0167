"""Numbers of things in sentences."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """Return `1 clip`, `2 clips`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
