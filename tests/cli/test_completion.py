"""Shell completion: Typer's own options, hidden from the first help."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

Python = Callable[..., CompletedProcess[str]]
MAIN = "import sys; sys.argv = ['vfindex', *{arguments!r}]\nfrom vfindex.cli.app import main; main()"


def test_a_shell_completes_commands_and_options(python: Python) -> None:
    code = MAIN.format(arguments=[])
    for words, wanted in (("vfindex rein", "reindex"), ("vfindex purge --old", "--older-than")):
        asked = {"_VFINDEX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = python(code, **asked)
        assert done.stdout.split() == [wanted], done.stderr


def test_the_completion_script_is_for_this_program(python: Python) -> None:
    detection = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # there may be no shell above the tests
    done = python(MAIN.format(arguments=["--show-completion", "bash"]), **detection)
    assert done.returncode == 0, done.stderr
    assert "_VFINDEX_COMPLETE=complete_bash" in done.stdout
