"""Text cleaning of open_clip's models, applied before tokenization.

Equals open_clip's tokenizer.py (Cherti et al. 2023, arXiv 2212.07143), so the tokens are the same.
"""

from __future__ import annotations

import html
import string
from collections.abc import Callable, Mapping
from types import MappingProxyType

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _repaired(text: str) -> str:
    """Return the text with its encoding repaired, typographic forms made plain and HTML entities resolved."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text  # the rest would not change it, and importing ftfy takes 0.1 s
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _whitespace(text: str) -> str:
    return " ".join(_repaired(text).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    plain = _repaired(text).replace("_", " ").translate(_PUNCTUATION)
    return " ".join(plain.lower().split())


# By open_clip's names: keep case; lower case; lower case without punctuation.
CLEANINGS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"whitespace": _whitespace, "lower": _lower, "canonicalize": _canonicalize}
)
