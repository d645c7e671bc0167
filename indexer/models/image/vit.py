"""CLIP's vision transformer, without the work that its vector does not need.

Equal to open_clip's `VisionTransformer` with a class token: of the last layer, only that token's row is computed.
Neither open_clip nor torchvision is imported, which takes 3 s of processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = "open_clip_model.safetensors"
_PREFIX = "visual."
_TEXT = "token_embedding.weight"  # of the text side of the same file
# Rows of a product, for which oneDNN chooses the order of the weights: a batch of 8 images of 50 tokens. The same order
# is as fast for 200 and for 1,600.
_ROWS = 400
# In bfloat16 on a CPU, torch's fused attention multiplies by a library that converts to float32: oneDNN's products take
# half the time, up to so many tokens. Beyond, they save a tenth, and the scores take 100 MB and more.
_PRODUCT_TOKENS = 300


@dataclass(frozen=True, slots=True)
class VitShape:
    """The fields of open_clip's configuration, with its defaults. The last two are not part of `vision_cfg`."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    head_width: int = 64
    mlp_ratio: float = 4.0
    embed_dim: int = 512
    quick_gelu: bool = False

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> Self | None:
        """Return the shape of a `model_cfg`; None if its image tower is of another kind."""
        vision = {name: value for name, value in model["vision_cfg"].items() if value is not None}
        if not vision.keys() <= {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"}:
            return None
        shape = cls(**vision, embed_dim=model["embed_dim"], quick_gelu=bool(model.get("quick_gelu")))
        sides = (shape.image_size, shape.patch_size, shape.width, shape.layers, shape.head_width, shape.embed_dim)
        if not all(type(side) is int and side > 0 for side in sides):
            return None  # four numbers of layers are a ResNet
        fits = shape.image_size % shape.patch_size == 0 and shape.width % shape.head_width == 0
        return shape if fits else None


class Linear(nn.Linear):
    """A linear layer whose weights can be kept in the order in which oneDNN multiplies them.

    Otherwise each product reorders them first: 0.94 of the speed in bfloat16, batches of 8.
    """

    _packed: Tensor | None = None

    def pack(self) -> None:
        """Reorder the weights, permanently."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, _ROWS)
        del self.weight

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is None:
            return super().forward(x)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return product


class QuickGelu(nn.Module):
    """The approximation of GELU that OpenAI's models were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    """A residual attention block."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        width, hidden = shape.width, int(shape.width * shape.mlp_ratio)
        self.head_width = shape.head_width
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value, self.out = Linear(width, width), Linear(width, 2 * width), Linear(width, width)
        self.widen, self.narrow = Linear(width, hidden), Linear(hidden, width)
        self.activation = QuickGelu() if shape.quick_gelu else nn.GELU()

    def forward(self, x: Tensor, tokens: int) -> Tensor:
        """Return the first tokens after this layer (n, tokens, width). x: all of them before it."""
        normed = self.norm_1(x)
        x = x[:, :tokens]
        query = self.query(normed[:, :tokens]).unflatten(2, (-1, self.head_width)).transpose(1, 2)
        key_value = self.key_value(normed).unflatten(2, (2, -1, self.head_width)).permute(2, 0, 3, 1, 4)
        x = x + self.out(attend(query, key_value).transpose(1, 2).flatten(2))
        narrowed: Tensor = self.narrow(self.activation(self.widen(self.norm_2(x))))
        return x + narrowed


def attend(query: Tensor, key_value: Tensor) -> Tensor:
    """Return softmax(query @ key.T / sqrt(head_width)) @ value (n, heads, tokens of the query, head_width).

    query: (n, heads, tokens, head_width). key_value: (2, n, heads, all tokens, head_width).
    """
    n, heads, _, head_width = query.shape
    is_short = key_value.shape[3] <= _PRODUCT_TOKENS
    if query.device.type != "cpu" or query.dtype is not torch.bfloat16 or not is_short:
        return functional.scaled_dot_product_attention(query, *key_value)
    key, value = key_value.flatten(1, 2)  # (n * heads, all tokens, head_width)
    nothing = query.new_empty(1)  # what beta=0 leaves out
    scores = torch.baddbmm(nothing, query.flatten(0, 1), key.transpose(1, 2), beta=0, alpha=head_width**-0.5)
    return torch.bmm(scores.softmax(2), value).view(n, heads, -1, head_width)


class ClipVit(nn.Module):
    """The image tower of CLIP's vision transformers."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.image_size, self._patch_px = shape.image_size, shape.patch_size
        self.class_embedding = nn.Parameter(torch.empty(shape.width))
        n_patches = (shape.image_size // shape.patch_size) ** 2
        self.positions = nn.Parameter(torch.empty(1 + n_patches, shape.width))
        self.patches = Linear(3 * shape.patch_size**2, shape.width, bias=False)
        self.norm_before, self.norm_after = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.projection = Linear(shape.width, shape.embed_dim, bias=False)

    @classmethod
    def load(cls, folder: Path, model: Mapping[str, Any]) -> Self | None:
        """Return the tower of a model's folder in float32, on the CPU. model: its `model_cfg`.

        None if the model is of another kind, or its files are not as expected: open_clip loads it then, or says why.
        """
        try:
            shape = VitShape.of(model)
            if shape is None:
                return None
            with torch.device("meta"):  # without the initial values, which loading would replace
                tower = cls(shape)
            with safe_open(folder / WEIGHTS, framework="pt") as weights:
                if _TEXT not in weights.keys():  # noqa: SIM118  a file, no dictionary
                    return None
                tower.load_state_dict(_state(weights, shape), assign=True)
        except (AttributeError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError):
            return None
        return tower

    def forward(self, colours: Tensor) -> Tensor:
        """Return (n, embed_dim). colours: (n, 3, size, size), normalised."""
        side = self.image_size // self._patch_px
        grid = colours.reshape(-1, 3, side, self._patch_px, side, self._patch_px)
        x = self.patches(grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))  # (n, patches, width)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1) + self.positions
        x = self.norm_before(x)
        for layer in self.layers[:-1]:
            x = layer(x, x.shape[1])
        x = self.layers[-1](x, 1)
        vectors: Tensor = self.projection(self.norm_after(x[:, 0]))
        return vectors

    def pack(self) -> None:
        """Keep the weights as oneDNN multiplies them. For a tower in bfloat16 on the CPU that is not compiled."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack()


def can_pack() -> bool:
    """Return whether this torch has the operators that `Linear.pack` needs; they have no public name."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    return all(hasattr(torch.ops.mkldnn, name) for name in names) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _state(weights: Any, shape: VitShape) -> dict[str, Tensor]:
    """Return the parameters of a ClipVit from a file in open_clip's names.

    Raises KeyError if one is absent, ValueError if the patches have another shape.
    """
    stored: dict[str, Tensor] = {
        name.removeprefix(_PREFIX): weights.get_tensor(name).float()
        for name in weights.keys()  # noqa: SIM118  a file, no dictionary
        if name.startswith(_PREFIX)
    }
    state = {
        "class_embedding": stored.pop("class_embedding"),
        "positions": stored.pop("positional_embedding"),
        "patches.weight": _patches(stored.pop("conv1.weight"), shape),
        "projection.weight": stored.pop("proj").T.contiguous(),
    }
    for n in range(shape.layers):
        attention = f"transformer.resblocks.{n}.attn.in_proj"
        for kind in ("weight", "bias"):
            joint = stored.pop(f"{attention}_{kind}")
            state[f"layers.{n}.query.{kind}"] = joint[: shape.width]
            state[f"layers.{n}.key_value.{kind}"] = joint[shape.width :]
    names = {
        "transformer.resblocks": "layers", "attn.out_proj": "out", "mlp.c_fc": "widen", "mlp.c_proj": "narrow",
        "ln_1": "norm_1", "ln_2": "norm_2", "ln_pre": "norm_before", "ln_post": "norm_after",
    }  # fmt: skip
    for name, tensor in stored.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        state[name] = tensor
    return state


def _patches(kernels: Tensor, shape: VitShape) -> Tensor:
    """Return a convolution's weights as those of a linear layer, whose size they have in any order."""
    if kernels.shape != (shape.width, 3, shape.patch_size, shape.patch_size):
        raise ValueError(f"the patches' weights have the shape {tuple(kernels.shape)}")
    return kernels.flatten(1)
