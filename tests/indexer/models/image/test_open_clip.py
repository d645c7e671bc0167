"""open_clip's image models: equal vectors, no frame lost when memory runs out, errors in one sentence.

Tests name the number format, so that no result depends on the machine. torch is imported inside the tests, so that
collecting them is fast.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from tiny_models import CLIP, CLIP_PIXELS, CLIP_SIZE_PX, SIGLIP_SIZE_PX, make_clip, make_open_clip, make_siglip

from vfindex.indexer.models.base import ImageEncoder, Pixels
from vfindex.storage.errors import ModelError, UsageError
from vfindex.storage.records import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from vfindex.indexer.models.image.open_clip import NumberFormat, OpenClipEncoder
    from vfindex.indexer.models.image.tower import Preparation

FORMATS: tuple[NumberFormat, ...] = ("float32", "bfloat16")
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("open_clip")
    return {"clip": make_clip(base / "clip"), "siglip": make_siglip(base / "siglip")}


@pytest.fixture(scope="module")
def clip(folders: dict[str, Path]) -> OpenClipEncoder:
    from vfindex.indexer.models.image.open_clip import OpenClipEncoder

    return OpenClipEncoder.open(folders["clip"], threads=1, number_format="float32")


def same_vectors(found: FloatArray, expected: FloatArray, number_format: str) -> bool:
    """Return whether vectors of length 1 agree as far as a number format allows: bfloat16 has 8 bits of mantissa."""
    if number_format == "float32":
        return np.allclose(found, expected, atol=1e-5)
    return bool((found * expected).sum(axis=-1).min() > 0.999)


def images(size_px: int, n: int = 7) -> list[Pixels]:
    """Return smooth noise with the short side `size_px`, of several shapes, wide and tall."""
    rng = np.random.default_rng(0)
    shapes = [(size_px + 13 * i, size_px) if i % 2 else (size_px, size_px + 13 * i) for i in range(n)]
    coarse = [Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)) for _ in shapes]
    return [
        np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        for image, (height, width) in zip(coarse, shapes, strict=True)
    ]


def open_clip_s_own(folder: Path, frames: list[Pixels]) -> FloatArray:
    import open_clip
    import torch

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.inference_mode():
        batch = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
        vectors: FloatArray = model.eval().encode_image(batch, normalize=True).numpy()
    return vectors


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize(("name", "size_px", "dim"), [("clip", CLIP_SIZE_PX, 32), ("siglip", SIGLIP_SIZE_PX, 96)])
def test_vectors_equal_open_clip_s(
    folders: dict[str, Path], name: str, size_px: int, dim: int, number_format: NumberFormat
) -> None:
    from vfindex.indexer.models.image.open_clip import OpenClipEncoder

    encoder: ImageEncoder = OpenClipEncoder.open(folders[name], threads=1, number_format=number_format)
    assert (encoder.size_px, encoder.dim) == (size_px, dim)
    frames = images(size_px)
    found = encoder.encode_images(frames)
    assert found.dtype == np.float32
    assert same_vectors(found, open_clip_s_own(folders[name], frames), number_format)
    assert encoder.encode_images([]).shape == (0, dim)


def test_pickled_weights_run_no_code(folders: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from vfindex.indexer.models.image.tower import load_tower

    folder = shutil.copytree(folders["clip"], tmp_path / "model")
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(weights, folder / "open_clip_pytorch_model.bin")
    tower = load_tower(folder)
    assert torch.equal(tower.visual.state_dict()["conv1.weight"], weights["visual.conv1.weight"])

    class Hostile:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"visual.conv1.weight": Hostile()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tower(folder)
    assert not (tmp_path / "run").exists()


def preparation(resize_mode: str, interpolation: str) -> Preparation:
    from vfindex.indexer.models.image.tower import Preparation

    return Preparation(64, resize_mode, interpolation, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_equals_open_clip_s(resize_mode: str, interpolation: str) -> None:
    from open_clip.transform import image_transform

    transform = image_transform(64, False, resize_mode=resize_mode, interpolation=interpolation)
    transform.transforms = transform.transforms[:-2]  # all before it becomes a tensor
    prepare = preparation(resize_mode, interpolation)
    for frame in images(64):
        assert np.array_equal(prepare.square(frame), np.asarray(transform(Image.fromarray(frame))))


@pytest.mark.parametrize("shape", [(64, 90), (64, 90, 4), (63, 90, 3), (65, 90, 3), (0, 64, 3)])
def test_other_shapes_are_refused(clip: OpenClipEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="short side"):
        clip.encode_images([np.zeros(shape, dtype=np.uint8)])
    with pytest.raises(ValueError, match="short side"):
        clip.encode_images([np.zeros((64, 64, 3), dtype=np.float32)])


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_vector_does_not_depend_on_who_else_asks(folders: dict[str, Path], number_format: NumberFormat) -> None:
    from vfindex.indexer.models.image.open_clip import OpenClipEncoder

    encoder = OpenClipEncoder.open(folders["clip"], threads=1, number_format=number_format)
    frames = images(CLIP_SIZE_PX, 12)
    expected = encoder.encode_images(frames)
    with ThreadPoolExecutor(4) as pool:
        for row, found in enumerate(pool.map(lambda frame: encoder.encode_images([frame])[0], frames)):
            assert same_vectors(found, expected[row], number_format)


class TestMemory:
    """Towers that fit no more than some pictures at a time."""

    def encoder(self, folder: Path, fits: list[int], error: Exception) -> tuple[OpenClipEncoder, list[int]]:
        """Return an encoder whose tower raises `error` above fits[0] pictures, and the sizes of the batches it saw."""
        import torch
        from torch import nn

        from vfindex.indexer.models.image.open_clip import OpenClipEncoder
        from vfindex.indexer.models.image.tower import ImageTower, load_tower

        tower = load_tower(folder)
        sizes: list[int] = []

        class Narrow(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = tower.visual

            def forward(self, pixels: Tensor) -> Tensor:
                sizes.append(len(pixels))
                if len(pixels) > fits[0]:
                    raise error
                found: Tensor = self.inner(pixels)
                return found

        narrow = ImageTower(Narrow(), tower.preparation)
        encoder = OpenClipEncoder([(narrow, torch.device("cpu"))], batch_frames=16)
        sizes.clear()
        return encoder, sizes

    @pytest.mark.parametrize("kind", ["cuda", "cpu", "python"])
    def test_a_batch_that_does_not_fit_is_halved(
        self, clip: OpenClipEncoder, folders: dict[str, Path], kind: str
    ) -> None:
        import torch

        errors = {
            "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
            "python": MemoryError(),
        }
        encoder, sizes = self.encoder(folders["clip"], [5], errors[kind])
        frames = images(CLIP_SIZE_PX, 23)
        found = encoder.encode_images(frames)
        assert sizes == [16, 8, 4, 4, 4, 4, 4, 3]
        assert encoder.batch_frames == 4
        for frame, vector in zip(frames, found, strict=True):
            assert np.allclose(vector, clip.encode_images([frame])[0], atol=1e-5)
        sizes.clear()
        encoder.encode_images(frames[:9])
        assert sizes == [4, 4, 1]

    def test_threads_that_run_out_of_memory_together_lose_no_frame(
        self, clip: OpenClipEncoder, folders: dict[str, Path]
    ) -> None:
        import torch

        encoder, _ = self.encoder(folders["clip"], [2], torch.OutOfMemoryError())
        frames = images(CLIP_SIZE_PX, 10)
        expected = clip.encode_images(frames)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(encoder.encode_images, [frames] * 4):
                assert np.allclose(found, expected, atol=1e-5)
        assert encoder.batch_frames == 2

    def test_one_image_that_does_not_fit_is_an_error(self, folders: dict[str, Path]) -> None:
        fits = [3]
        encoder, _ = self.encoder(folders["clip"], fits, MemoryError())
        frames = images(CLIP_SIZE_PX, 3)
        fits[0] = 0
        with pytest.raises(ModelError, match="not enough memory"):
            encoder.encode_images(frames)
        fits[0] = 3
        assert encoder.encode_images(frames).shape == (3, 32)
        with pytest.raises(ModelError, match="not enough memory"):
            self.encoder(folders["clip"], [0], MemoryError())

    def test_other_errors_are_not_taken_for_out_of_memory(self, folders: dict[str, Path]) -> None:
        encoder, _ = self.encoder(folders["clip"], [3], RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        with pytest.raises(RuntimeError, match="mat1"):
            encoder.encode_images(images(CLIP_SIZE_PX, 4))


@pytest.mark.parametrize(
    ("rates", "fits", "expected"),
    [
        ({1: 10, 4: 40, 8: 80, 16: 160, 32: 320}, 99, 32),
        ({1: 10, 4: 30, 8: 30.5, 16: 31, 32: 99}, 99, 4),  # two doublings without gain end it
        ({1: 10, 4: 15, 8: 15, 16: 19, 32: 9}, 99, 16),  # one does not
        ({1: 10, 4: 9, 8: 9, 16: 9}, 99, 4),  # a single picture is only measured to know what to expect
        ({1: 10, 4: 40, 8: 80, 16: 81}, 16, 8),
        ({1: 10, 4: 40}, 4, 4),
        ({1: 10}, 3, 2),
    ],
)
def test_batch_size_doubles_while_speed_gains(rates: dict[int, float], fits: int, expected: int) -> None:
    from vfindex.indexer.models.image.open_clip import OutOfMemory, best_batch

    def seconds(n: int) -> float:
        if n > fits:
            raise OutOfMemory
        return n / rates[n]

    assert best_batch(seconds, first=4, largest=32, budget_s=1e9) == expected


@pytest.mark.parametrize(
    ("one_s", "asked", "expected"), [(1.0, [1], 4), (0.2, [1, 4], 4), (0.1, [1, 4, 8], 8), (0.03, [1, 4, 8, 16], 16)]
)
def test_the_batch_size_search_stays_within_its_budget(one_s: float, asked: list[int], expected: int) -> None:
    from vfindex.indexer.models.image.open_clip import best_batch

    seen: list[int] = []

    def seconds(n: int) -> float:
        seen.append(n)
        return float(one_s * n**0.9)

    assert best_batch(seconds, first=4, largest=32, budget_s=2.5) == expected
    assert seen == asked
    assert len(seen) == 1 or sum(2 * one_s * n**0.9 for n in seen) <= 2.5


def test_a_batch_is_timed_in_its_warm_lane(clip: OpenClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    class Lane:
        def __init__(self, name: str) -> None:
            self.name = name

        def encode(self, pixels: Pixels) -> FloatArray:
            asked.append((self.name, len(pixels)))
            return np.zeros((len(pixels), clip.dim), np.float32)

    lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
    lanes.put(Lane("A"))
    lanes.put(Lane("B"))
    monkeypatch.setattr(clip, "_free", lanes)
    for n in (8, 16):
        clip._seconds(n)
    assert asked == [("A", 8), ("A", 8), ("B", 16), ("B", 16)]
    assert lanes.qsize() == 2


def test_bfloat16_vectors_are_close_to_float32(folders: dict[str, Path], clip: OpenClipEncoder) -> None:
    from vfindex.indexer.models.image.open_clip import OpenClipEncoder

    half = OpenClipEncoder.open(folders["clip"], threads=1, number_format="bfloat16")
    frames = images(CLIP_SIZE_PX)
    found, expected = half.encode_images(frames), clip.encode_images(frames)
    assert found.dtype == np.float32
    assert (found * expected).sum(axis=1).min() > 0.999
    assert not np.array_equal(found, expected)


def test_a_cpu_s_model_is_opened_by_one_core(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """With more, each waits for the next tensor by spinning, while decoders want the cores."""
    import torch

    from vfindex.indexer.models.image import open_clip as open_clip_encoder

    counts = []
    load, place = open_clip_encoder.load_tower, open_clip_encoder.placed

    def loaded(folder: Path) -> Any:
        counts.append(torch.get_num_threads())
        return load(folder)

    def placed(tower: Any, device: Any, *, compiled: bool) -> Any:
        counts.append(torch.get_num_threads())
        return place(tower, device, compiled=compiled)

    monkeypatch.setattr(open_clip_encoder, "load_tower", loaded)
    monkeypatch.setattr(open_clip_encoder, "placed", placed)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        open_clip_encoder.OpenClipEncoder.open(folders["clip"], threads=2, devices=["cpu"], number_format="bfloat16")
        assert counts == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_auto_reuses_the_measured_format(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from vfindex.indexer.models.image import open_clip as open_clip_encoder

    open_clip_encoder.fastest_format(torch.device("cpu"))
    monkeypatch.delattr(open_clip_encoder, "_product_s")
    found = open_clip_encoder.fastest_format(torch.device("cpu"))
    frames = images(CLIP_SIZE_PX, 2)
    by_itself, by_name = (
        open_clip_encoder.OpenClipEncoder.open(folders["clip"], threads=1, devices=["cpu"], number_format=chosen)
        for chosen in ("auto", "bfloat16" if found is torch.bfloat16 else "float32")
    )
    assert np.allclose(by_itself.encode_images(frames), by_name.encode_images(frames), atol=1e-6)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def drop_tensor(folder: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    del weights[name]
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: shutil.rmtree(folder), r"open_clip_config\.json.*missing.*models pull"),
        (lambda folder: (folder / "open_clip_config.json").unlink(), r"open_clip_config\.json.*missing.*models pull"),
        (lambda folder: (folder / "open_clip_config.json").write_text("{"), "not the configuration"),
        (lambda folder: (folder / "open_clip_config.json").write_text("[]"), "not the configuration"),
        (lambda folder: rewrite(folder, lambda c: c.pop("model_cfg")), "not the configuration"),
        (lambda folder: rewrite(folder, lambda c: c["model_cfg"].update(vision_cfg={"layers": "two"})), "be loaded"),
        (lambda folder: rewrite(folder, lambda c: c["model_cfg"].update(embed_dim=48)), "be loaded.*size mismatch"),
        (lambda folder: rewrite(folder, lambda c: c["model_cfg"]["text_cfg"].update(hf_model_name="x/y")), "x/y"),
        (lambda folder: rewrite(folder, lambda c: c["model_cfg"].update(multimodal_cfg={})), "captioning"),
        (lambda folder: rewrite(folder, lambda c: c["preprocess_cfg"].update(resize_mode="longest")), "'longest'"),
        (lambda folder: rewrite(folder, lambda c: c["preprocess_cfg"].update(interpolation="random")), "'random'"),
        (lambda folder: (folder / WEIGHTS).unlink(), "be loaded"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), "be loaded"),
        (lambda folder: os.truncate(folder / WEIGHTS, 100_000), "be loaded"),
        (lambda folder: drop_tensor(folder, "visual.proj"), r"be loaded.*visual\.proj"),
        (lambda folder: drop_tensor(folder, "token_embedding.weight"), r"be loaded.*token_embedding"),
    ],
)
def test_an_unusable_folder_is_named(
    folders: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    from vfindex.indexer.models.image.open_clip import OpenClipEncoder

    folder = shutil.copytree(folders["clip"], tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelError, match=words) as caught:
        OpenClipEncoder.open(folder, threads=1)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_of_oblong_images_is_refused(tmp_path: Path) -> None:
    from vfindex.indexer.models.image.tower import load_tower

    oblong = {**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "image_size": [64, 96]}}
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tower(make_open_clip(tmp_path / "model", oblong, CLIP_PIXELS))


def test_an_unknown_device_is_named(folders: dict[str, Path]) -> None:
    from vfindex.indexer.models.image.open_clip import OpenClipEncoder

    with pytest.raises(UsageError, match="no device 'cuda:99'; choose from: cpu"):
        OpenClipEncoder.open(folders["clip"], threads=1, devices=["cuda:99"])


@pytest.mark.skipif(os.environ.get("VFINDEX_REQUIRE_GPU") != "1", reason="needs a GPU: VFINDEX_REQUIRE_GPU=1")
def test_gpu_vectors_equal_cpu_vectors(folders: dict[str, Path]) -> None:
    import torch

    from vfindex.indexer.models.image.open_clip import OpenClipEncoder

    assert torch.cuda.is_available()
    for name, size_px in (("clip", CLIP_SIZE_PX), ("siglip", SIGLIP_SIZE_PX)):
        frames = images(size_px, 40)
        cpu = OpenClipEncoder.open(folders[name], threads=1, devices=["cpu"], number_format="float32")
        expected = cpu.encode_images(frames)
        for number_format in FORMATS:
            encoder = OpenClipEncoder.open(folders[name], threads=1, number_format=number_format)
            with ThreadPoolExecutor(4) as pool:
                for found in pool.map(encoder.encode_images, [frames] * 4):
                    assert (found * expected).sum(axis=1).min() > 0.999
