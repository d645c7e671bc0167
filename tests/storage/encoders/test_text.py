"""Text encoders equal transformers; a damaged model is named, not used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vfindex.indexer.models.catalog import MINILM_WEIGHTS
from vfindex.indexer.models.lite import ensure_lite
from vfindex.indexer.models.packages import locate_package_file
from vfindex.storage.encoders.text import MAX_CHARACTERS, TextEncoder, check_files, read_meta
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

TEXTS = ["a dog in the snow", "", "Häuser, C++ & -foo?", "word " * 600, "犬", "the price of oil rose by 3 % on Tuesday"]


@pytest.fixture(scope="module")
def folder(models_cache: Path) -> Path:
    return ensure_lite(models_cache).text


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder.open(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the model to damage; the weights are a link until a test replaces them."""
    for path in folder.iterdir():
        if path.name == "model.onnx.data":
            (tmp_path / path.name).symlink_to(path)
        else:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_rows_are_unit_vectors_in_the_order_of_the_texts(encoder: TextEncoder) -> None:
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), encoder.dim)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    for text, row in zip(TEXTS, together, strict=True):
        assert encoder.encode([text])[0] @ row > 0.9999
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_it_is_the_model_that_transformers_runs(encoder: TextEncoder, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer

    source = locate_package_file(MINILM_WEIGHTS, folder).parent
    model = transformers.BertModel.from_pretrained(source, add_pooling_layer=False).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text, row in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            wanted = model(ids).last_hidden_state[0].mean(0).numpy()
        assert row @ wanted / np.linalg.norm(wanted) > 0.9999


def test_meaning_shows(encoder: TextEncoder) -> None:
    dog, puppy, tax = encoder.encode(["a dog runs", "the puppy is running", "income tax law"])
    assert dog @ puppy > 0.5 > 0.2 > dog @ tax


def test_long_and_odd_texts(encoder: TextEncoder) -> None:
    long, longer = encoder.encode(["word " * 400, "word " * 100_000])
    assert long @ longer > 0.9999
    assert np.isfinite(encoder.encode(["\udc80 lone surrogate", "\0\x1b[31m", "x" * (MAX_CHARACTERS + 9)])).all()


def test_a_query_is_the_mean_of_its_templates(encoder: TextEncoder) -> None:
    sentence, red, car = encoder.encode(["the red car", "red", "car"])
    wanted = sentence + (red + car) / 2
    found = encoder.encode_queries([("the red car", ["red", "car"])], [["{}", "{word}"], ["{}"]])
    assert np.allclose(found, [[wanted / np.linalg.norm(wanted), sentence]], atol=1e-5)
    assert np.allclose(encoder.encode_queries([("the red car", [])], [["{}", "{word}"]]), [[sentence]], atol=1e-5)
    with pytest.raises(ValueError, match="template"):
        encoder.encode_queries([("the red car", [])], [["{}"], ["{word}"]])


def test_many_queries_at_once_are_the_same_as_single_ones(encoder: TextEncoder) -> None:
    sets = [["{}", "{word}", "{colour}"], ["{}"]]
    queries = [("the red car", ["red", "car"]), ("a dog", []), ("someone prepares food in a kitchen", ["food"])]
    single = [encoder.encode_queries([query], sets)[0] for query in queries]
    assert np.allclose(encoder.encode_queries(queries, sets), single, atol=1e-5)
    assert encoder.encode_queries([], sets).shape == (0, 2, encoder.dim)


def test_colours_are_a_template_of_their_own(encoder: TextEncoder) -> None:
    queries = [("the red car", ["red", "car"]), ("the car", ["car"])]
    named, unnamed = encoder.encode_queries(queries, [["{}", "{word}"], ["{}", "{word}", "{colour}"]])
    assert 0.6 < named[0] @ named[1] < 0.95
    assert unnamed[0] @ unnamed[1] > 0.995


def with_meta(folder: Path, **facts: object) -> TextEncoder:
    """Return the model of a copied folder, its description changed."""
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | facts))
    weights = folder / "model.onnx.data"
    source = weights.resolve()
    weights.unlink()  # ONNX Runtime does not follow links out of the folder
    shutil.copyfile(source, weights)
    return TextEncoder.open(folder)


def test_a_description_without_prompts_means_none(encoder: TextEncoder) -> None:
    assert encoder.templates == ("{}",)
    assert np.array_equal(encoder.encode_passages(TEXTS), encoder.encode(TEXTS))


def test_a_model_s_own_prompts(copy: Path, encoder: TextEncoder) -> None:
    prompted = with_meta(copy, templates=["query: {}"], passage="passage: ")
    assert prompted.templates == ("query: {}",)
    wanted = encoder.encode([f"passage: {text}" for text in TEXTS])
    assert np.array_equal(prompted.encode_passages(TEXTS), wanted)
    assert np.array_equal(prompted.encode(TEXTS), encoder.encode(TEXTS))


def test_texts_are_padded_as_the_description_says(copy: Path, encoder: TextEncoder) -> None:
    padded = with_meta(copy, length=256, pad=1012)
    shapes: list[tuple[int, ...]] = []
    run = padded._session.run

    def spy(names: None, inputs: dict[str, FloatArray]) -> list[FloatArray]:
        shapes.append(inputs["ids"].shape)
        assert (inputs["ids"][inputs["mask"] == 0] == 1012).all()
        return run(names, inputs)

    padded._session = SimpleNamespace(run=spy)
    assert np.allclose(padded.encode(TEXTS[:2]), encoder.encode(TEXTS[:2]), atol=1e-5)  # the model heeds its mask
    assert {length for _, length in shapes} == {256}


def test_an_unknown_cleaning_is_refused(copy: Path) -> None:
    with pytest.raises(ModelError, match="description"):
        with_meta(copy, cleaning="steam")


def test_cleaning_comes_before_the_tokens(copy: Path, encoder: TextEncoder) -> None:
    cleaned = with_meta(copy, cleaning="canonicalize")
    assert cleaned.tokens(["The  DOG's &amp; bowl!"]) == encoder.tokens(["the dogs bowl"])


def test_braces_in_a_query_are_literal(encoder: TextEncoder) -> None:
    [wanted] = encoder.encode(["what is {word} or {}"])
    assert np.allclose(encoder.encode_queries([("what is {word} or {}", ["word"])], [["{}"]]), [[wanted]], atol=1e-5)


@pytest.mark.parametrize("name", ["meta.json", "model.onnx", "model.onnx.data", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "other bytes"])
def test_damage_is_named(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    data = b"" if name == "model.onnx.data" else path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else bytes(len(data)))
    with pytest.raises(ModelError) as error:
        TextEncoder.open(copy)
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_weights_of_the_same_length_are_found(copy: Path) -> None:
    weights = copy / "model.onnx.data"
    size = weights.stat().st_size
    weights.unlink()
    with weights.open("wb") as file:
        file.truncate(size)
    with pytest.raises(ModelError, match=r"model\.onnx\.data.*damaged"):
        check_files(copy, read_meta(copy))


def test_weights_that_give_no_numbers_are_named(copy: Path) -> None:
    """A flipped bit made them so, and a search ended as a bug: opening does not hash weights."""
    weights = copy / "model.onnx.data"
    data = np.frombuffer(weights.read_bytes(), np.uint8).copy()
    weights.unlink()  # a link to what others have
    data[-(len(data) // 8 * 4) :] = 0xFF  # NaN, as float16 and as float32
    weights.write_bytes(data.tobytes())
    with pytest.raises(ModelError, match="gives vectors that are no numbers"):
        TextEncoder.open(copy).encode(["a red door"])


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 99, "files": {}}', '{"format": 1, "files": {}}', "\xff"])
def test_a_foreign_description_is_refused(copy: Path, text: str) -> None:
    (copy / "meta.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError):
        TextEncoder.open(copy)


def test_a_graph_that_cannot_be_opened(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"no graph")
    meta = json.loads((copy / "meta.json").read_text())
    del meta["files"]["model.onnx"]
    (copy / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ModelError, match="cannot be opened"):
        TextEncoder.open(copy)


def test_it_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, vfindex.storage.encoders.text; print(sorted({'torch', 'transformers', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
