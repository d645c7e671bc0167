"""Index video libraries and find the moment you remember, by asking for it in words.

Installed as `vfindex/__init__.py` (pyproject.toml): Python runs it before any other module of vfindex, in every process
that imports one, and so before the libraries whose telemetry it switches off.
"""

import os

__version__ = "0.1.0"

# The vendors' own switches, set whatever the environment says: docs/security.md promises that nothing is sent. Child
# processes inherit them.
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",  # consoledonottrack.com; huggingface_hub reads it, too
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and through it transformers and sentence-transformers
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime from 1.32: a device id and a database in the user's cache, and uploads
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray
}
os.environ.update(TELEMETRY_OFF)
# A thread a core for the words of one query; where none can be started, tokenizers ends the process.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
