"""How the figures of `vfindex eval` are printed."""

from __future__ import annotations

import re

import pytest

from vfindex.cli.commands.eval import _print_level
from vfindex.search.evaluation.evaluate import Level


def test_columns_of_ranks_beyond_the_last_hit_stay_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    level = Level({"MRR": {"a": 0.0, "b": 1.0}}, {"all": ["a"], "easy": ["b"], "hard": ["a"]})
    _print_level("video", level)
    row = capsys.readouterr().out.splitlines()[-1]
    beyond = "beyond [beyond, beyond]"
    assert re.split(r"  +", row) == ["median rank", beyond, "1.000 [1.000, 1.000]", beyond]
