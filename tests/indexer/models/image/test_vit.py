"""CLIP's vision transformer: equal to open_clip's, which loads all models of another kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import CLIP, CLIP_PIXELS, CLIP_SIZE_PX, make_open_clip

from vfindex.storage.errors import ModelError

# Other proportions than those of the defaults, so that no part can be taken for another.
SMALL = {"image_size": CLIP_SIZE_PX, "layers": 3, "width": 48, "head_width": 12, "patch_size": 8, "mlp_ratio": 3.0}


def model_of(vision: dict[str, Any], **model: Any) -> dict[str, Any]:
    return {**CLIP, "vision_cfg": vision, **model}


def make(folder: Path, model: dict[str, Any]) -> Path:
    """Write a model whose norms and biases are not those of the start, where errors in them would not show."""
    import torch
    from safetensors.torch import load_file, save_file

    made = make_open_clip(folder, model, CLIP_PIXELS)
    torch.manual_seed(3)
    weights = {
        name: tensor + 0.2 * torch.randn(tensor.shape) if tensor.dim() == 1 else tensor
        for name, tensor in load_file(made / "open_clip_model.safetensors").items()
    }
    save_file(weights, made / "open_clip_model.safetensors")
    return made


def vectors_of_both(folder: Path, size_px: int) -> tuple[Any, Any]:
    """Return the vectors of five random images, by the tower as loaded and by open_clip's."""
    import open_clip
    import torch

    from vfindex.indexer.models.image.tower import load_tower

    colours = torch.randn(5, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))
    theirs = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).visual.eval()
    with torch.inference_mode():
        return load_tower(folder).visual(colours), theirs(colours)


@pytest.mark.parametrize(
    "model", [CLIP, model_of(SMALL), model_of(SMALL, quick_gelu=True)], ids=["like ViT-B-32", "odd", "QuickGELU"]
)
def test_vectors_equal_open_clip_s(tmp_path: Path, model: dict[str, Any]) -> None:
    import torch

    from vfindex.indexer.models.image.tower import load_tower
    from vfindex.indexer.models.image.vit import ClipVit

    folder = make(tmp_path / "model", model)
    assert isinstance(load_tower(folder).visual, ClipVit)
    found, expected = vectors_of_both(folder, CLIP_SIZE_PX)
    assert found.shape == expected.shape == (5, 32)
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "vision",
    [{**SMALL, "pool_type": "avg"}, {**SMALL, "no_ln_pre": True}, {**SMALL, "ls_init_value": 0.5}],
    ids=lambda vision: [*vision][-1],
)
def test_models_of_another_kind_are_open_clip_s(tmp_path: Path, vision: dict[str, Any]) -> None:
    import torch

    from vfindex.indexer.models.image.tower import load_tower
    from vfindex.indexer.models.image.vit import ClipVit

    folder = make(tmp_path / "model", model_of(vision))
    assert not isinstance(load_tower(folder).visual, ClipVit)
    found, expected = vectors_of_both(folder, CLIP_SIZE_PX)
    assert torch.equal(found, expected)


def test_patches_in_another_order_are_refused(tmp_path: Path) -> None:
    """As open_clip refuses them: in the order of TensorFlow they have as many numbers."""
    from safetensors.torch import load_file, save_file

    from vfindex.indexer.models.image.tower import load_tower

    weights = make(tmp_path / "model", CLIP) / "open_clip_model.safetensors"
    kernels = load_file(weights)["visual.conv1.weight"].permute(0, 2, 3, 1).contiguous()
    save_file({**load_file(weights), "visual.conv1.weight": kernels}, weights)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tower(tmp_path / "model")


def test_packed_weights_make_the_same_vectors(tmp_path: Path) -> None:
    import torch

    from vfindex.indexer.models.image.tower import load_tower
    from vfindex.indexer.models.image.vit import ClipVit, can_pack

    if not can_pack():
        pytest.skip("this processor does not multiply bfloat16")
    visual = load_tower(make(tmp_path / "model", model_of(SMALL))).visual.to(torch.bfloat16)
    assert isinstance(visual, ClipVit)
    colours = torch.randn(9, 3, CLIP_SIZE_PX, CLIP_SIZE_PX, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.inference_mode():
        plain = torch.nn.functional.normalize(visual(colours).float(), dim=1)
        visual.pack()
        packed = torch.nn.functional.normalize(visual(colours).float(), dim=1)
    assert (plain * packed).sum(dim=1).min() > 0.9999


@pytest.mark.parametrize("head_width", [12, 64])
@pytest.mark.parametrize(("asked", "tokens"), [(50, 50), (1, 50), (301, 301)])
def test_attention_in_bfloat16_is_that_of_float32(asked: int, tokens: int, head_width: int) -> None:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from vfindex.indexer.models.image.vit import attend

    torch.manual_seed(2)
    query = (3 * torch.randn(2, 5, asked, head_width)).bfloat16()  # attention to few tokens
    key_value = torch.randn(2, 2, 5, tokens, head_width).bfloat16()
    expected = scaled_dot_product_attention(query.float(), *key_value.float())
    found = attend(query, key_value)
    assert found.shape == expected.shape
    assert found.dtype == torch.bfloat16
    error = (found - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert error < 0.02
    assert torch.equal(attend(query.float(), key_value.float()), expected)


def test_neither_open_clip_nor_its_libraries_are_imported(tmp_path: Path) -> None:
    folder = make_open_clip(tmp_path / "model", CLIP, CLIP_PIXELS)
    code = (
        "import sys; from pathlib import Path; from vfindex.indexer.models.image.open_clip import OpenClipEncoder\n"
        "OpenClipEncoder.open(Path(sys.argv[1]), threads=1, devices=['cpu'])\n"
        "print(*{'open_clip', 'torchvision', 'timm', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(folder)], check=True, capture_output=True, text=True, timeout=900
    )
    assert done.stdout.strip() == ""
