"""Query encoders shared by threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from library_maker import SETUP

from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.parser import parse
from vfindex.storage.library import Library
from vfindex.storage.records import FloatArray

QUERIES = 12


class CountingEncoder:
    """Counts the queries that are encoded at one time. Each waits until `cores` of them are."""

    def __init__(self, cores: int) -> None:
        self.together = threading.Barrier(cores)
        self.counting = threading.Lock()
        self.running = self.most = 0

    def encode_queries(self, queries: Sequence[object], template_sets: Sequence[Sequence[str]]) -> FloatArray:
        with self.counting:
            self.running += 1
            self.most = max(self.most, self.running)
        self.together.wait(timeout=60)
        time.sleep(0.01)  # for the others to come, were they let in
        with self.counting:
            self.running -= 1
        return np.ones((len(queries), len(template_sets), 4), dtype=np.float32)


@pytest.mark.parametrize("cores", [1, 2])
def test_one_query_a_core_is_encoded_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    counting = CountingEncoder(cores)
    monkeypatch.setattr(QueryEncoder, "_encoder", lambda self, model: counting)
    encoder = QueryEncoder(Library(tmp_path), SETUP)
    [part] = parse("dog").moments[0].parts()
    with ThreadPoolExecutor(QUERIES) as threads:
        answers = list(threads.map(lambda _: encoder.encode(part), range(QUERIES)))
    assert all(answer.keys() == SETUP.query.keys() for answer in answers)
    assert counting.most == cores
