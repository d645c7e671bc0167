"""Questions to a library, and their answers: `from vfindex.search import SearchEngine`.

The names are loaded when they are first used: importing this package loads nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfindex.search.engine import SearchEngine
    from vfindex.search.query.ast import Query
    from vfindex.search.query.like import Like
    from vfindex.search.results import Hit

__all__ = ["Hit", "Like", "Query", "SearchEngine"]

_MODULES = {"Hit": "results", "Like": "query.like", "Query": "query.ast", "SearchEngine": "engine"}


def __getattr__(name: str) -> Any:
    """Return a public name of one of this package's modules. Raises AttributeError."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
