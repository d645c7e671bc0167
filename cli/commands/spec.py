"""vfindex spec"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from vfindex.cli.options import (
    JsonOption,
    LibrariesOption,
    LibraryOption,
    add_command,
    command_group,
    library_folder,
    library_folders,
)
from vfindex.cli.out_file import ForceOption, check_out_file, write_out_file
from vfindex.cli.output import plain, print_json
from vfindex.cli.run import calibrate_if_due, interrupt_said
from vfindex.storage.errors import UsageError, counted

NAME = "spec"
EXAMPLE = "vfindex spec export spec.json --library A --library B"
# The first bytes of a spec file.
_BEGINS = b'{\n "format": "vfindex joint spec"'

app = command_group("Make the scores of several libraries comparable.", EXAMPLE)


@add_command(app, "export", EXAMPLE)
def export_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    library: LibrariesOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Write the spec of a library, or of several together."""
    from vfindex.storage.maintenance.shared_spec import exported

    check_out_file(file, "FILE", _BEGINS, force=force)
    folders = library_folders(library)
    shared = exported(folders)
    write_out_file(file, "FILE", f"{shared.to_json()}\n".encode())
    if json:
        print_json({"spec": shared.hash, "clips": shared.clips, "libraries": len(folders)})
    else:
        use = plain(f"use it in a library with: vfindex spec use {shlex.quote(str(file))} --library DIR")
        print(f"spec {shared.hash} of {counted(shared.clips, 'clip')}; {use}")


@add_command(app, "use", "vfindex spec use spec.json --library A")
def use_command(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A file of `export`.", show_default=False)] = None,
    own: Annotated[bool, typer.Option("--own", help="Return to a spec of the library's own.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Rebuild the search index with a spec; later runs keep it."""
    from vfindex.storage.maintenance.shared_spec import use_own_spec, use_spec, used_spec

    if (file is None) != own:
        raise UsageError("give the file of a spec, or --own, as in: vfindex spec use spec.json")
    folder = library_folder(library)
    with interrupt_said():
        generation = use_own_spec(folder) if file is None else use_spec(folder, file)
        calibrate_if_due(folder, anew=True)
    used = used_spec(folder)
    if json:
        print_json({"spec": used, "shared": not own, "clips": generation.clips})
    else:
        print(f"index of {counted(generation.clips, 'clip')} with {'its own' if own else 'the shared'} spec {used}")
