"""Watched questions at the command line: asked at the end of a run, and a user's command called for each new hit."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vfindex.cli.output import plain, say
from vfindex.storage.errors import LibraryLocked, UsageError, VfindexError, counted

if TYPE_CHECKING:
    from vfindex.search.understanding.news import NewsItem, Waiting

# A command that takes longer is killed: it would hold the night.
EXEC_S = 60.0
# What is meant as a placeholder.
_BRACES = re.compile(r"\{\w+\}")


def ask_watches(folder: Path) -> bool:
    """Ask the watched questions of a library of what is new, and say what waits for `watch run`; return success.

    Nothing is reported here: that is done once, by `vfindex watch run`. A failure does not undo the run before.
    """
    from vfindex.search.engine import SearchEngine
    from vfindex.search.understanding.watch import Watches

    try:
        watches = Watches(SearchEngine(folder))
        if not watches.watched().watches:
            return True
        with watches.alone():
            say_waiting(watches.judge(say))
        new = {each.name: each.new for each in watches.watched().watches if each.new}
    except LibraryLocked as exc:
        say(str(exc))
        return True
    except VfindexError as exc:
        say(f"the watched questions could not be asked: {exc}")
        return False
    for name, count in new.items():
        say(f"watch {name}: {counted(count, 'new hit')}; to see: vfindex watch run {shlex.quote(name)}")
    return True


def say_waiting(waiting: tuple[Waiting, ...]) -> None:
    """Print the watches that could not judge."""
    for each in waiting:
        say(f"watch {each.watch}: {each.reason}; {counted(each.videos, 'new video')} waiting")


def user_command(text: str) -> list[str]:
    """Return the program and arguments of `--exec`. Raises UsageError, VfindexError for a program that is not there."""
    from vfindex.search.understanding.news import PLACEHOLDERS

    try:
        command = shlex.split(text)
    except ValueError as exc:
        raise UsageError(f"--exec cannot be read ({exc}); quote it as for a shell, which is not used") from exc
    if not command:
        raise UsageError("--exec is empty; name a program, as in: --exec 'notify-send {name} {video}'")
    unknown = [each for part in command for each in _BRACES.findall(part) if each not in PLACEHOLDERS]
    if unknown:
        raise UsageError(f"--exec has {unknown[0]}; it may have {', '.join(PLACEHOLDERS)}")
    if shutil.which(command[0]) is None:
        raise VfindexError(f"{command[0]} cannot be started (no such program); nothing was reported to it")
    return command


def call(command: list[str], item: NewsItem) -> str:
    """Run a command for an item, with its JSON document on standard input; return why it failed, "" where it did not.

    Its arguments go to the program as they are: no shell reads them. Raises VfindexError if it cannot start.
    """
    from vfindex.cli.tokens import SECRET_NAMES
    from vfindex.indexer.media.child import Child
    from vfindex.search.understanding.news import arguments_of

    environment = {name: text for name, text in os.environ.items() if name not in SECRET_NAMES}
    arguments = [each.replace("\0", "") for each in arguments_of(command, item)]
    try:
        child = Child(arguments, environment=environment, answers=False)
    except OSError as exc:
        raise VfindexError(f"{command[0]} cannot be started ({exc.strerror}); nothing was reported to it") from exc
    with child:
        child.start_clock(wall_s=EXEC_S)
        with suppress(BrokenPipeError, TimeoutError):  # one that reads no input
            child.send([json.dumps(item.to_dict(), ensure_ascii=True).encode() + b"\n"])
        child.end_input()
        death = child.death(EXEC_S)
    if death.status is None:
        return f"took longer than {EXEC_S:.0f} s and was stopped"
    if death.status:
        return plain(" ".join([f"ended with status {death.status}", *death.last_words.split()[-20:]]))
    return ""
