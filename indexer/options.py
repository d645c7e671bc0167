"""How a run reads files: which frames are sampled, and whether speech is recognised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

from vfindex.storage.errors import UsageError

Mode = Literal["auto", "keyframes", "sparse", "fps"]

MIN_FPS = 0.01  # one frame in 100 s; sparser sampling finds nothing
MAX_FPS = 120.0  # above the rate of common cameras; neighbouring frames are alike


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames are read: `auto`, `keyframes`, or a fixed rate (`fps`). `sparse` is internal: the preview."""

    mode: Mode = "auto"
    fps: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the sampling that `text` names; raises UsageError."""
        word = text.strip().lower()
        if word == "auto":
            return cls("auto")
        if word == "keyframes":
            return cls("keyframes")
        try:
            fps = float(word)
        except ValueError:
            fps = math.nan
        if not MIN_FPS <= fps <= MAX_FPS:
            raise UsageError(
                f"--sampling takes auto, keyframes or frames a second from {MIN_FPS:g} to {MAX_FPS:g}, not {text!r}"
            )
        return cls("fps", fps)

    def __str__(self) -> str:
        return f"{self.fps!r}".removesuffix(".0") if self.mode == "fps" else self.mode


@dataclass(frozen=True, slots=True)
class Options:
    """How to read a file. asr: recognise speech where no subtitle covers it.

    languages: tags that the speech model supports; None: all. safe: decode as little as possible, because the file
    crashed its decoder or ran into its limits; see `safely`.
    """

    sampling: Sampling
    asr: bool
    safe: bool = False
    languages: frozenset[str] | None = None

    def safely(self) -> Options:
        """Return the options of the last attempt: single keyframes, no audio, no embedded subtitles.

        Most decoders crash on frames that depend on others, or in a stream other than video.
        """
        return Options(Sampling("keyframes"), asr=False, safe=True)

    def coarsely(self) -> Options:
        """Return the options of the preview: sparse keyframes, no audio."""
        return Options(Sampling("sparse"), asr=False)
