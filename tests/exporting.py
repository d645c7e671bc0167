"""Exports of models in the process of the test, which has torch already."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from vfindex.indexer.models.export import cache as export_cache
from vfindex.indexer.models.export import graph


@contextmanager
def exports_in_this_process() -> Iterator[list[str]]:
    """Let exports run here instead of in a child; yield what was exported."""
    made: list[str] = []

    @contextmanager
    def exporting(module: str, arguments: Sequence[str], *, what: str, threads: int) -> Iterator[None]:
        assert threads >= 1
        made.append(what)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", [module, *arguments])
            patch.setattr(graph, "end_with_parent", lambda: None)  # which ends this process where stdin is closed
            graph.main(importlib.import_module(module).EXPORTS)
        yield

    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_cache, "exporting", exporting)
        yield made
    torch.backends.mha.set_fastpath_enabled(fast)
