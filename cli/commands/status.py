"""vfindex status"""

from __future__ import annotations

from typing import Any

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import clock, plain, print_json
from vfindex.storage.errors import counted

NAME = "status"
EXAMPLE = "vfindex status --json"


def command(library: LibraryOption = None, json: JsonOption = False) -> None:
    """Show what the library contains, and what failed."""
    from vfindex.search.results import status_to_dict
    from vfindex.storage.library import Library, again_if_changed

    folder = library_folder(library)

    @again_if_changed
    def read() -> dict[str, Any]:
        opened = Library.open(folder)
        with opened.snapshot() as snapshot:
            return status_to_dict(folder, opened, snapshot)

    document = read()
    if json:
        print_json(document)
    else:
        _print(document)


def _index_line(document: dict[str, Any]) -> str:
    if document["index_problem"]:
        return f"not used: {document['index_problem']}"
    if not document["generation"]:
        return "none yet; searches scan the clips"
    return f"generation {document['generation']}, {counted(document['clips_in_generation'], 'clip')}"


def _print(document: dict[str, Any]) -> None:
    preset, sampling = document["preset"], document["sampling"]
    length, files = clock(document["video_seconds"]), counted(document["locations"], "file")
    print(f"library     {plain(document['library'])}")
    print(f"preset      {f'{preset}, sampling {sampling}' if preset else 'none yet; the first ingest sets one'}")
    if document["models"]:
        print(f"models      {plain(', '.join(document['models'].values()))}")
    if document["lacks"]:
        print(f"lacks       {', '.join(document['lacks'])}; to add it: vfindex upgrade --preset {preset}")
    print(f"videos      {document['videos']} searchable, {length} in all")
    print(f"files       {files}, copies and failed files included")
    print(f"clips       {document['clips']}: {', '.join(f'{n} with {m}' for m, n in document['clips_with'].items())}")
    print(f"transcript  {counted(document['segments'], 'segment')}")
    print(f"index       {plain(_index_line(document))}")
    if document["fusion"] != "concat":
        print(f"fusion      {document['fusion']}, whose weights are fixed and whose hits have no confidence")
    for modality, of in (document["confidence"] or {}).items():
        print(f"{'confidence':11} {modality}: {of['reason']}")
    if document["coarse"]:
        print(
            f"preview     {counted(document['coarse'], 'video')} indexed as a preview; the next run indexes them fully"
        )
    if document["states"]["indexing"]:
        print(f"unfinished  {counted(document['states']['indexing'], 'video')}; the next `vfindex ingest` continues")
    if document["states"]["vanished"]:
        print(f"missing     {counted(document['states']['vanished'], 'video')}; `vfindex purge` deletes them")
    for path in document["removed"]:
        print(plain(f"{'removed':11} {path}, and skipped; to index it again: vfindex remove --forget-exclusion PATH"))
    for row in document["problems"]:
        tries = f" ({row['attempts']} tries failed)" if row["attempts"] > 1 else ""
        print(plain(f"{row['state']:11} {row['path']}: {row.get('reason', '')}{tries}; {row.get('next', '')}"))
