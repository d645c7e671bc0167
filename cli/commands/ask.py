"""vfindex ask"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import LLM_KEY, JsonOption, LibrariesOption, library_folders, refuse_empty
from vfindex.cli.output import clock, path_text, plain, print_json, say
from vfindex.cli.render.explain import SOURCES
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.search.understanding.answering.ask import Answer, Quotation
    from vfindex.search.understanding.answering.endpoint import Endpoint

NAME = "ask"
EXAMPLE = "vfindex ask why should climbers wear a helmet"
# As `search` without a match: a shell can tell an answer from none.
EXIT_NOT_SAID = 1


def command(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUESTION", help="The question, in plain words. What follows `--` is never an option."),
    ] = None,
    video: Annotated[
        str | None, typer.Option(metavar="VIDEO", help="Only this video: path, file name or fingerprint.")
    ] = None,
    top_k: Annotated[int, typer.Option("-k", "--top-k", metavar="K", min=1, max=20, help="Moments at most.")] = 3,
    show_all: Annotated[bool, typer.Option("--all", help="Show moments no better than chance, too.")] = False,
    llm: Annotated[
        str | None,
        typer.Option("--llm", metavar="URL", help="Phrase it by this OpenAI-style endpoint (docs/ask.md)."),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="The endpoint's model.")] = "",
    timeout: Annotated[int, typer.Option(metavar="S", min=1, max=3600, help="Seconds for the endpoint.")] = 60,
    library: LibrariesOption = None,
    json: JsonOption = False,
) -> None:
    """Quote the moments that answer a question.

    From what is said, and text on the screen. Exits with 1 if nothing in it is better than chance.
    """
    from vfindex.search.service import SearchService

    question = " ".join(words or ()).strip()
    if not question:
        raise UsageError(f"the question is missing: give it in plain words, as in: {EXAMPLE}")
    refuse_empty([video] if video is not None else [])
    endpoint = _endpoint(llm, model, timeout)
    with SearchService(library_folders(library)) as service:
        answer = service.ask(question, video=video, top_k=top_k, show_all=show_all, endpoint=endpoint)
    if json:
        print_json(answer.to_dict())
    else:
        _print(answer)
    if not answer.says:
        raise typer.Exit(EXIT_NOT_SAID)


def _endpoint(llm: str | None, model: str, timeout_s: float) -> Endpoint | None:
    """Return the endpoint that the options name. Raises UsageError."""
    if llm is None:
        if model:
            raise UsageError("--model is the model of an endpoint; name the endpoint with --llm URL, too")
        return None
    from vfindex.search.understanding.answering.endpoint import Endpoint

    return Endpoint.parse(llm, model, os.environ.get(LLM_KEY) or None, timeout_s)


def _print(answer: Answer) -> None:
    if not answer.says:
        say(answer.reason or "")
    phrased = answer.phrased
    if phrased is not None:
        for sentence in phrased.sentences:
            print(plain(sentence.text) + " " + "".join(f"[{rank}]" for rank in sentence.moments))
        if phrased.sentences:
            say(f"written by {phrased.endpoint}, from the quotations below")
        if phrased.problem:
            say(f"{phrased.endpoint}: {phrased.problem}; the quotations are the answer")
        elif phrased.dropped:
            it = "it" if phrased.dropped == 1 else "them"
            say(f"{phrased.endpoint}: {counted(phrased.dropped, 'sentence')} left out: no quotation supports {it}")
    for moment in answer.moments:
        span = f"{clock(moment.start_s)}-{clock(moment.end_s)}"
        share = "-" if moment.share is None else f"{moment.share:.0%}"
        print(f"[{moment.rank}]\t{moment.confidence or '-'} {share}\t{span}\t{plain(path_text(moment.video) or '?')}")
        for quotation in moment.quotations:
            print(f"    {_quoted(quotation)}")


def _quoted(quotation: Quotation) -> str:
    who = f"{', '.join(quotation.speakers)}: " if quotation.speakers else ""
    where = f"{clock(quotation.start_s, tenths=True)} {quotation.track}, {SOURCES.get(quotation.source, '')}"
    return plain(f'{where}: {who}"{quotation.text}"')
