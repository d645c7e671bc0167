"""Models are found and described without the libraries that open them."""

from __future__ import annotations

import subprocess
import sys

from vfindex.cli.extras import EXTRAS

BLOCKED_IMPORTS = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
import vfindex.indexer.models.factory, vfindex.indexer.models.hub
"""


def test_the_factory_needs_no_library_of_an_extra_until_a_model_is_opened() -> None:
    modules = [module for name in ("index", "ray") for module in EXTRAS[name].modules]
    command = [sys.executable, "-P", "-c", BLOCKED_IMPORTS, *modules]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
