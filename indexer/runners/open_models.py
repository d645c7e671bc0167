"""The open models of local runs, and who closes them: the owner that opened them, not the run that used them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from vfindex.indexer.extractors.registry import open_extractors
from vfindex.indexer.models.base import Encoders
from vfindex.indexer.runners.image_queue import ImageQueue
from vfindex.storage.errors import VideoError


class OpenModels:
    """The encoders and extractors that running units share, with a queue in front of the image model if it has lanes.

    images: that queue, None without. Thread-safe, but for `close`.
    """

    def __init__(self, encoders: Encoders) -> None:
        """encoders: which this closes. Raises ModelError if a model of an extractor cannot be opened."""
        self.images = ImageQueue(encoders.image_model(), encoders.lanes) if encoders.lanes else None
        self.encoders = encoders if self.images is None else encoders.with_images(self.images)
        self._has_failed = False
        try:
            self.extractors = open_extractors(self.encoders)
        except BaseException:
            self.close()
            raise

    @property
    def are_intact(self) -> bool:
        """Whether another run may use them: none was killed, and none has failed."""
        speech = self.encoders.speech
        return not self._has_failed and (speech is None or speech.is_intact)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Run a unit's work with them. An exception that is not the video's own fault counts as a failed model."""
        try:
            yield
        except VideoError:
            raise
        except BaseException:
            self._has_failed = True
            raise

    def kill(self) -> None:
        """Stop recognising speech, from any thread: running batches finish, the rest resolves with a problem."""
        if self.encoders.speech is not None:
            self.encoders.speech.kill()

    def close(self) -> None:
        """Wait for running batches, then free the models."""
        if self.encoders.speech is not None:
            self.encoders.speech.close()
        if self.images is not None:
            self.images.close()


class ModelOwner:
    """Keeps the models of a run open for the next that asks for the same. A context manager that closes them."""

    def __init__(self) -> None:
        self._request: object = None
        self._models: OpenModels | None = None

    def models(self, request: object, open_encoders: Callable[[], Encoders]) -> OpenModels:
        """Return models for a run, opened unless those of the last run are intact and were opened for an equal request.

        request: all that decides which models are opened and how. Others are closed first, so that two sets never take
        memory at once. Raises as `open_encoders` and `OpenModels` do.
        """
        if self._models is None or self._request != request or not self._models.are_intact:
            self._close()
            self._models, self._request = OpenModels(open_encoders()), request
        return self._models

    def _close(self) -> None:
        models, self._models = self._models, None
        if models is not None:
            models.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
