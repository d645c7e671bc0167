"""vfindex demo"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vfindex.cli.extras import require
from vfindex.cli.options import JsonOption, cache_folder
from vfindex.cli.output import clock, path_text, plain, print_json, say, shortened
from vfindex.cli.render.explain import row_of
from vfindex.cli.run import EXIT_INTERRUPTED, print_report, run_ingest
from vfindex.storage.modalities import get_modality

if TYPE_CHECKING:
    from vfindex.search.results import Hit

NAME = "demo"
EXAMPLE = "vfindex demo --library /tmp/vfindex-demo"
_HITS = 4
_SNIPPET_CHARS = 70


def command(
    library: Annotated[
        Path | None,
        typer.Option("--library", metavar="DIR", help="The demo's own library.  [default: in the cache]"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Try vfindex on five short videos that it makes itself.

    Indexes them, runs four searches and draws the results as a picture. The demo has its own library; yours is not
    touched.
    """
    require("index")
    from vfindex.cli.demo_media import QUESTIONS, make_demo_videos
    from vfindex.cli.render.contact_sheet import contact_sheet
    from vfindex.indexer.models.presets import Choice
    from vfindex.indexer.runs.execute import RunSettings
    from vfindex.search.engine import SearchEngine

    base = cache_folder() / "demo"
    folder = library.expanduser().absolute() if library else base / "library"
    say(f"making videos in {base / 'videos'}")
    paths = make_demo_videos(base / "videos")
    settings = RunSettings(cache=cache_folder(), choice=Choice("lite"))
    report = run_ingest(folder, [os.fsencode(path) for path in paths], settings, name="demo")
    if not json:
        print_report(report)
    if report.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    engine = SearchEngine.open(folder)
    answers = [(question, engine.search(question.text, top_k=_HITS)) for question in QUESTIONS]
    sheet = folder / "demo.png"
    contact_sheet([row_of(question.text, hits) for question, hits in answers], sheet, "vfindex demo")
    if json:
        print_json({"library": str(folder), "contact_sheet": str(sheet), "answers": [_answer(*a) for a in answers]})
        return
    for question, hits in answers:
        print(f'\n"{question.text}" ({question.modality})')
        for hit in hits[:2]:
            name = plain(os.path.basename(path_text(hit.video) or "?"))
            span = f"{clock(hit.start_s)}-{clock(hit.end_s)}"
            said = hit.snippet if get_modality(question.modality).has_segments else None
            snippet = f"  {shortened(plain(said), _SNIPPET_CHARS)}" if said else ""
            print(f"  {hit.rank}. {name} {span}  {hit.score:.2f}{snippet}")
    program = "vfindex" if shutil.which("vfindex") else shlex.quote(sys.argv[0])
    print(f"\nthe results as a picture: {plain(str(sheet))}")
    print(plain(f'search it yourself: {program} search "a cat" --library {shlex.quote(str(folder))}'))
    print(plain(f"index your own videos: {program} ingest FOLDER"))


def _answer(question: Any, hits: list[Hit]) -> dict[str, Any]:
    return {
        "query": question.text,
        "modality": question.modality,
        "expected": question.expected,
        "hits": [hit.to_dict() for hit in hits],
    }
