"""vfindex watch"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vfindex.cli.options import JsonOption, LibraryOption, add_command, command_group, library_folder
from vfindex.cli.out_file import HTML, XML, ForceOption, check_out_file, write_out_file
from vfindex.cli.output import clock, plain, print_json, say
from vfindex.cli.watches import call, say_waiting, user_command
from vfindex.search.calibration.labels import LABELS
from vfindex.storage.errors import QueryError, counted

if TYPE_CHECKING:
    from vfindex.search.understanding.news import News, NewsItem, WatchInfo
    from vfindex.search.understanding.watch import Watches

# A hit that is no better than chance is no news.
Least = Literal["low", "medium", "high"]
NAME = "watch"
EXAMPLE = 'vfindex watch add fox "a fox in the garden"'

app = command_group("Ask saved questions of what is new after each run.", EXAMPLE)


def _watches(library: Path | None) -> Watches:
    from vfindex.search.engine import SearchEngine
    from vfindex.search.understanding.watch import Watches

    return Watches(SearchEngine(library_folder(library)))


@add_command(app, "add", EXAMPLE)
def add_watch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for the question, or that of a saved one.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="The question; without it, the saved one.")
    ] = None,
    min_confidence: Annotated[
        Least,
        typer.Option(metavar="LABEL", help=f"Only hits with this label or a better one: {', '.join(LABELS[1:])}."),
    ] = "medium",
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Watch a question. What the library holds already is not new."""
    from vfindex.search.query.parser import joined

    made = _watches(library).add(name, joined(words) if words else None, least=min_confidence)
    if json:
        print_json(made.to_dict())
    else:
        say(f"watching {made.name}: {made.question}")
        if made.doubt is not None:
            say(f"{made.doubt}; new videos found by that alone wait until it has (docs/watch.md)")


@add_command(app, "list", "vfindex watch list --json")
def list_watches(library: LibraryOption = None, json: JsonOption = False) -> None:
    """List watched questions: name, question, new hits, all hits. Exits with 1 if there is none."""
    found = _watches(library).watched()
    if json:
        print_json(found.to_dict())
    else:
        for each in found.watches:
            print("\t".join(plain(str(part)) for part in (each.name, each.question, each.new, each.hits)))
        say(counted(len(found.watches), "watched question"))
    if not found.watches:
        raise typer.Exit(1)


@add_command(app, "remove", "vfindex watch remove fox")
def remove_watch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The watched question.")],
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Stop watching a question and delete its hits. The question stays saved."""
    gone: WatchInfo = _watches(library).remove(name)
    if json:
        print_json(gone.to_dict())
    else:
        say(f"no longer watched: {gone.name}: {gone.question}")


@add_command(app, "run", "vfindex watch run --feed ~/public/news.xml")
def run_watches(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Report only these; without any, all.")
    ] = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page of the newest hits.")] = None,
    feed: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an Atom feed of the newest hits.")] = None,
    exec_: Annotated[
        str | None,
        typer.Option(
            "--exec", metavar="COMMAND", help="Run for each new hit; no shell. {name} {video} {start} {end} {id}"
        ),
    ] = None,
    force: ForceOption = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Ask all watched questions, and report each new hit once.

    A hit that --exec fails for is reported by the next run. Exits with 0 also if nothing is new."""
    for path, option, begins in ((page, "--page", HTML), (feed, "--feed", XML)):
        if path is not None:
            check_out_file(path, option, begins, force=force)
    command = None if exec_ is None else user_command(exec_)
    watches = _watches(library)
    _check_names(watches, names or [])
    with watches.alone():
        found = watches.untold(watches.judge(say))
        chosen = [each for each in found.news if not names or each.watch in names]
        _write(watches, chosen, page, feed)
        told = chosen if command is None else _called(watches, command, chosen)
        _print(type(found)(tuple(told), found.waiting), json=json)
        sys.stdout.flush()
        watches.tell(told if command is None else [])
    say_waiting(found.waiting)
    if len(told) < len(chosen):
        raise typer.Exit(1)


def _check_names(watches: Watches, names: list[str]) -> None:
    """Raise QueryError where nothing, or nothing of this name, is watched."""
    known = {each.name for each in watches.watched().watches}
    if not known:
        raise QueryError(f"no question is watched; watch one with: {EXAMPLE}")
    for name in names:
        if name not in known:
            raise QueryError(f"no question named {name} is watched; `vfindex watch list` shows those that are")


def _write(watches: Watches, new: list[NewsItem], page: Path | None, feed: Path | None) -> None:
    """Write the files; each holds a hit once, however often it is written."""
    if page is None and feed is None:
        return
    from vfindex.cli.render.news_page import news_page
    from vfindex.search.understanding.feed import SHOWN_ITEMS, atom

    items = watches.items(newest=SHOWN_ITEMS)
    if page is not None:
        write_out_file(page, "--page", news_page(items, {each.id for each in new}).encode())
        say(f"written: {page}")
    if feed is not None:
        write_out_file(feed, "--feed", atom(items, "vfindex: news", watches.folder))
        say(f"written: {feed}")


def _called(watches: Watches, command: list[str], items: list[NewsItem]) -> list[NewsItem]:
    """Run a command for each item; return those for which it succeeded, each noted at once."""
    told = []
    for each in items:
        failure = call(command, each)
        if failure:
            say(f"{command[0]} {failure}; hit {each.id} is reported again by the next run")
        else:
            watches.tell([each])
            told.append(each)
    return told


def _print(found: News, *, json: bool) -> None:
    if json:
        print_json(found.to_dict())
        return
    for each in found.news:
        video = each.fingerprint if each.video is None else os.fsdecode(each.video)
        label = (each.confidence or "words found") + (" (preview)" if each.preview else "")
        span = f"{clock(each.start_s)}-{clock(each.end_s)}"
        print("\t".join(plain(part) for part in (str(each.id), each.watch, span, label, video)))
    say(counted(len(found.news), "new hit"))
