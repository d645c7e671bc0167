"""For `pip install -e .`: a vfindex/__init__.py that finds its sub-packages in this checkout. Run by hatchling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EditableHook(BuildHookInterface[Any]):
    """Does nothing for other wheels."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the file into the wheel if `version` is "editable"."""
        if version != "editable":
            return
        package = Path(self.root, "storage", "package.py").read_text(encoding="utf-8")
        made = Path(self.directory, "editable", "__init__.py")
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(f"{package}\n__path__.append({self.root!r})\n", encoding="utf-8")
        build_data["force_include_editable"][str(made)] = "vfindex/__init__.py"
