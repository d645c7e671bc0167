"""vfindex status"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfindex.cli.options import JsonOption, LibrariesOption, library_folders
from vfindex.cli.output import clock, path_text, plain, print_json, show
from vfindex.cli.render.run_report import run_line
from vfindex.storage.errors import counted

if TYPE_CHECKING:
    from vfindex.search.status import IndexInfo, RecallInfo, Status

NAME = "status"
EXAMPLE = "vfindex status --json"
# Ingested paths that are shown one by one.
_SHOWN_ROOTS = 10


def command(library: LibrariesOption = None, json: JsonOption = False) -> None:
    """Show what the library contains, and what failed."""
    from vfindex.search.service import SearchService

    found = [SearchService(folder).status() for folder in library_folders(library)]
    if json:
        one = found[0].to_dict()
        print_json(one if len(found) == 1 else {"libraries": [each.to_dict() for each in found]})
        return
    for number, each in enumerate(found):
        if number:
            print()
        _print(each)


def _index_line(status: Status) -> str:
    if status.index_problem:
        return f"not used: {status.index_problem}"
    if not status.generation:
        return "none yet; searches scan the clips"
    where = "" if status.index is None or status.index.place == "built-in" else f", in {status.index.place}"
    return f"generation {status.generation}, {counted(status.clips_in_generation, 'clip')}{where}"


def _print_index(index: IndexInfo | None) -> None:
    if index is None or not index.segments:
        return
    coded = [each for each in index.segments if each.search != "exact"]
    kinds = f", {len(coded)} of them with codes" if coded else ", searched exactly"
    deleted = f", {index.deleted / max(1, index.clips + index.deleted):.1%} deleted" if index.deleted else ""
    size = f"{index.bytes / 1e6:,.1f} MB" if index.bytes >= 1e5 else f"{index.bytes / 1e3:,.1f} kB"
    print(f"segments    {counted(len(index.segments), 'segment')}{kinds}{deleted}, {size}")
    if index.pending_merges:
        clips = counted(index.pending_clips, "clip")
        print(f"{'merges':11} {index.pending_merges} due, of {clips} in all; a run makes them while it has time")
    if index.recall is not None:
        _print_recall(index.recall)


def _print_recall(recall: RecallInfo) -> None:
    """Print what the index found of the questions that people asked."""
    if recall.recall is None or recall.low is None or recall.high is None:
        again = f" since the search parameters were raised on {recall.raised}" if recall.raised else ""
        off = "" if recall.keeps else "; no more will be; to keep some again: vfindex questions --keep"
        show(f"recall      not measured{again or ' yet'}, {counted(recall.kept, 'question')} kept{off}")
        return
    asked = f"of {counted(recall.questions, 'question')} asked by people, {recall.since} to {recall.until}"
    print(f"recall      {recall.recall:.3f} ({recall.low:.2f} to {recall.high:.2f}) {asked}")
    for each in recall.weightings:
        if each.is_low:
            filtered = ", with filters" if each.filtered else ""
            span = f"({each.low:.2f} to {each.high:.2f}) of {counted(each.questions, 'question')}"
            print(f"{'recall':11} {_weighting(each.weighting)}{filtered}: {each.recall:.3f} {span}")
    if recall.is_low:
        print(f"{'recall':11} below {recall.least}: {recall.next}")


def _weighting(name: str) -> str:
    return {"default": "the default weights", "other": "other weights"}.get(name, f"{name} alone")


def _spec_line(status: Status) -> str:
    if status.spec is None:
        return "none yet"
    return f"{status.spec}, {'shared' if status.spec_is_shared else 'of its own'}"


def _print_roots(status: Status) -> None:
    """Print what `reindex` walks."""
    for path in status.roots[:_SHOWN_ROOTS]:
        print(plain(f"ingested    {path_text(path)}"))
    if (more := len(status.roots) - _SHOWN_ROOTS) > 0:
        show(f"{'ingested':11} {more} more: vfindex status --json")


def _print(status: Status) -> None:
    preset, sampling = status.preset, status.sampling
    length, files = clock(status.video_seconds), counted(status.locations, "file")
    print(f"library     {plain(str(status.library))}")
    _print_roots(status)
    without = status.setup_problem or "none yet; the first ingest sets one"
    show(f"preset      {f'{preset}, sampling {sampling}' if preset else without}")
    if status.models:
        print(f"models      {plain(', '.join(status.models.values()))}")
    if status.lacks:
        show(f"lacks       {', '.join(status.lacks)}; to add it: vfindex upgrade")
    print(f"videos      {status.videos} searchable, {length} in all")
    print(f"files       {files}, copies and failed files included")
    print(f"clips       {status.clips}: {', '.join(f'{n} with {m}' for m, n in status.clips_with.items())}")
    print(f"text        {counted(status.segments, 'segment')} with times: speech, text on the screen, chapters")
    show(f"index       {_index_line(status)}")
    _print_index(status.index)
    if not status.setup_problem:
        print(f"spec        {_spec_line(status)}")
    if run := status.last_run:
        print(plain(f"last run    {run.id}, {run.command}, {run.started_at}: {run_line(run)}"))
    if status.fusion != "concat":
        print(f"fusion      {status.fusion}, whose weights are fixed and whose hits have no confidence")
    for modality, of in (status.confidence or {}).items():
        print(f"{'confidence':11} {modality}: {of.reason}")
    if status.coarse:
        print(f"preview     {counted(status.coarse, 'video')} indexed as a preview; the next run indexes them fully")
    if status.states["indexing"]:
        show(f"unfinished  {counted(status.states['indexing'], 'video')}; the next `vfindex ingest` continues")
    if status.states["vanished"]:
        videos = counted(status.states["vanished"], "video")
        show(f"missing     {videos}, or excluded; `vfindex purge` deletes what has been missing for 30 days")
    _print_files(status)


def _print_files(status: Status) -> None:
    """Print the paths that runs skip, and what could not be indexed."""
    for path in status.removed:
        again = "to index it again: vfindex remove --forget-exclusion PATH"
        show(f"{'removed':11} {path_text(path)}, and skipped; {again}")
    for row in status.problems:
        tries = f" ({row.attempts} tries failed)" if row.attempts > 1 else ""
        show(f"{row.state:11} {path_text(row.path)}: {row.reason or ''}{tries}; {row.next or ''}")
    stored = {path_text(row.path) for row in status.problems}
    report = (status.last_run and status.last_run.report) or {}
    for failed in report.get("failed", []):  # what could not be opened is stored with the run alone
        if failed["path"] not in stored:
            show(f"{'failed':11} {failed['path']}: {failed.get('reason', '')}; {failed.get('next', '')}")
