"""What is said in a video's sound, where no subtitles tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from vfindex.indexer.media import AudioBlock
from vfindex.storage.records import Segment


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was recognised; heard_s, recognised_s, dropped_s: seconds of speech found, kept, and dropped as unsure."""

    segments: list[Segment]
    heard_s: float
    recognised_s: float
    dropped_s: float
    problems: list[str]


class SpeechPool:
    """Recognisers in child processes, started on the first utterance."""

    def __init__(self, workers: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Let running utterances end, then stop the children."""

    def kill(self) -> None:
        """Stop the children at once; every pending utterance gives an empty result."""

    def __enter__(self) -> SpeechPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Transcriber:
    """The recognition of one video's sound: feed its blocks in order, then finish."""

    def __init__(self, pool: SpeechPool, covered: Sequence[tuple[float, float]]) -> None:
        raise NotImplementedError

    def feed(self, block: AudioBlock) -> None:
        """Take the next block; waits while too much speech is pending."""

    def finish(self) -> Transcript:
        """Return the transcript once every utterance is recognised."""
        raise NotImplementedError
