"""The image tower of an open_clip model, loaded from its folder.

A model is a folder in the format of open_clip's `local-dir:`, with open_clip_config.json and
open_clip_model.safetensors. Nothing here uses the network.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional, init
from torch.overrides import TorchFunctionMode

from vfindex.indexer.models.base import Pixels
from vfindex.indexer.models.image.vit import ClipVit
from vfindex.storage.encoders.pixels import ResizeMode, square
from vfindex.storage.errors import ModelError
from vfindex.storage.files.regular import read_file

CONFIG = "open_clip_config.json"
_INTERPOLATIONS = ("bicubic", "bilinear")
# open_clip's defaults: OpenAI's mean and deviation.
_PREPROCESSING: Mapping[str, Any] = MappingProxyType(
    {
        "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
)
# Messages of allocators without an exception class of their own.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
# Raised by open_clip, torch and safetensors for damaged or mismatched files.
_LOADING_ERRORS = (
    AssertionError,
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True, slots=True)
class Preparation:
    """open_clip's preprocessing of an image.

    size_px: side of the square. resize_mode: `shortest` crops the long side, `squash` squeezes it.
    interpolation: PIL's filter for squeezing. mean, std: per channel, in units of 255.
    """

    size_px: int
    resize_mode: ResizeMode
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def square(self, frame: Pixels) -> Pixels:
        """Return (size_px, size_px, 3) uint8. frame: uint8 RGB with the short side size_px; else raises ValueError."""
        return square(frame, self.size_px, self.resize_mode, self.interpolation)


class ImageTower(nn.Module):
    """An open_clip image tower that normalises pixels and vectors itself. preparation: required of the pixels."""

    scale: Tensor
    shift: Tensor

    def __init__(self, visual: nn.Module, preparation: Preparation) -> None:
        super().__init__()
        self.visual = visual
        self.preparation = preparation
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preparation.mean, preparation.std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    @property
    def number_format(self) -> torch.dtype:
        return next(self.visual.parameters()).dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (n, dim) float32, rows of length 1. pixels: (n, size, size, 3) uint8 RGB."""
        dtype = self.number_format
        colours = pixels.permute(0, 3, 1, 2).float()
        features = self.visual((colours * self.scale + self.shift).to(dtype))
        return functional.normalize(features.float(), dim=1)


class _SkipInitialisation(TorchFunctionMode):
    """Skips the random initialisation of weights, since loading replaces every one of them, or fails.

    CPU seconds to construct ViT-B-32: 0.3 instead of 1.6; PE-Core-B-16: 0.7 instead of 9.5.
    """

    _INITIALISERS = frozenset(
        {
            Tensor.erfinv_,
            Tensor.normal_,
            Tensor.uniform_,
            init.kaiming_uniform_,
            init.normal_,
            init.trunc_normal_,
            init.uniform_,
        }
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._INITIALISERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def load_tower(folder: Path) -> ImageTower:
    """Return the image tower of a model's folder, in float32 on the CPU, without the text tower.

    Raises ModelError if a file is missing or damaged, or if the model is of an unsupported kind.
    """
    config = _checked_config(folder)
    try:
        visual: Any = ClipVit.load(folder, config["model_cfg"])
        if visual is not None:
            settings = {**_PREPROCESSING, **_given(config), "size": visual.image_size}
        else:
            visual = _load_by_open_clip(folder)
            settings = visual.preprocess_cfg
        sides = {int(side) for side in np.atleast_1d(settings["size"])}
        (size_px,) = sides
        preparation = Preparation(
            size_px, settings["resize_mode"], settings["interpolation"], tuple(settings["mean"]), tuple(settings["std"])
        )
        tower = ImageTower(visual, preparation)
    except _LOADING_ERRORS as exc:
        if is_out_of_memory(exc):
            raise ModelError(f"{folder}: there is not enough memory to load this model; choose a smaller one") from exc
        reason = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise ModelError(
            f"{folder}: this open_clip model cannot be loaded ({reason}); pull it again with `vfindex models pull`, or "
            "replace its files"
        ) from exc
    return tower.eval().requires_grad_(False)


def _load_by_open_clip(folder: Path) -> Any:
    """Return the image tower as open_clip builds it. Raises any of _LOADING_ERRORS."""
    import open_clip  # takes 3 s of processor, which models of ClipVit do without

    with _SkipInitialisation():
        # open_clip reads pickled weights with weights_only=True.
        return open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).visual


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing that a configuration states."""
    return {name: value for name, value in (config.get("preprocess_cfg") or {}).items() if value is not None}


def _checked_config(folder: Path) -> dict[str, Any]:
    """Return the folder's configuration. Raises ModelError if it is unreadable, unsupported, or needs the network."""
    path = folder / CONFIG
    try:
        config: Any = json.loads(read_file(path))
        model, pixels = config["model_cfg"], config.get("preprocess_cfg") or {}
        text = model["text_cfg"]
    except FileNotFoundError as exc:
        raise ModelError(
            f"{path}: this file is missing; run `vfindex models pull`, or put an open_clip model there"
        ) from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelError(f"{path}: not the configuration of an open_clip model; pull the model again") from exc
    reason = ""
    if "hf_model_name" in text:
        reason = f"its text tower is the Hugging Face model {text['hf_model_name']}, which open_clip would download"
    elif "multimodal_cfg" in model:
        reason = "it is a captioning model (CoCa)"
    elif pixels.get("resize_mode", "shortest") not in ("shortest", "squash"):
        reason = f"its resize mode is {pixels['resize_mode']!r}"
    elif pixels.get("interpolation", "bicubic") not in _INTERPOLATIONS:
        reason = f"its interpolation is {pixels['interpolation']!r}"
    if reason:
        raise ModelError(f"{folder}: vfindex does not support this model: {reason}; choose another one")
    found: dict[str, Any] = config
    return found


def is_out_of_memory(exc: BaseException) -> bool:
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(exc, RuntimeError) and any(words in str(exc) for words in _OUT_OF_MEMORY)
