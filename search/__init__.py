"""Search: from a query to hits. `from vfindex.search import SearchEngine`.

Names are imported at their first use: importing this package loads nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfindex.search.engine import SearchEngine
    from vfindex.search.query.ast import Query
    from vfindex.search.query.like import Like
    from vfindex.search.results import Hit
    from vfindex.search.service import SearchService

__all__ = ["Hit", "Like", "Query", "SearchEngine", "SearchService"]

_MODULES = {
    "Hit": "results",
    "Like": "query.like",
    "Query": "query.ast",
    "SearchEngine": "engine",
    "SearchService": "service",
}


def __getattr__(name: str) -> Any:
    """Import a public name. Raises AttributeError."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
