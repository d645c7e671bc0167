"""A JointSpec that libraries share: exported, used, kept by later runs, returned from; and files that are none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, SETUP, add_video, clip, prior

from vfindex.storage import publication
from vfindex.storage.errors import LibraryDamaged, NotPublished, UsageError
from vfindex.storage.index import gate
from vfindex.storage.index import segment as vectors
from vfindex.storage.index import tuning as recall
from vfindex.storage.index.flat import joint_batches
from vfindex.storage.index.ivf_pq import IvfPq
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import Library, reading_hash, reading_spec
from vfindex.storage.maintenance.rebuild import adopt, rebuild
from vfindex.storage.maintenance.shared_spec import exported, read_spec, use_own_spec, use_spec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import Clip, FloatArray, Segment, Setup
from vfindex.storage.settings_backup import read_backup
from vfindex.storage.writer import writing

RANDOM = np.random.default_rng(11)


def unit(count: int, towards: float = 0.0) -> FloatArray:
    """Return vectors (count, DIM) of length 1 that lean towards the first axis."""
    rows = RANDOM.standard_normal((count, DIM)).astype(np.float32)
    rows[:, 0] += towards
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def make(folder: Path, names: str, clips: Callable[[str], list[Clip]], setup: Setup = SETUP) -> Path:
    """Return a published library with a video for each name."""
    with writing(folder) as writer:
        writer.install(setup, {m: prior() for m in setup.models}, {})
        for name in names:
            add_video(writer, name, clips(name))
        writer.publish()
    return folder


@pytest.fixture(scope="module")
def clips() -> dict[str, list[Clip]]:
    """Return the clips of videos a to h; those of the first four lean to one side."""
    made = {}
    for number, name in enumerate("abcdefgh"):
        seen, said = unit(50, 2.0 if number < 4 else -0.5), unit(50)
        made[name] = [clip(5.0 * at, 5.0 * at + 5, visual=seen[at], speech=said[at]) for at in range(50)]
    return made


@pytest.fixture
def halves(tmp_path: Path, clips: dict[str, list[Clip]]) -> tuple[Path, Path]:
    return make(tmp_path / "A", "abcd", clips.__getitem__), make(tmp_path / "B", "efgh", clips.__getitem__)


def spec_of(folder: Path) -> JointSpec:
    with Library.open(folder).snapshot() as snapshot:
        return reading_spec(snapshot)[0]


def hash_of(folder: Path) -> str:
    with Library.open(folder).snapshot() as snapshot:
        return reading_hash(snapshot, folder)


def write(folder: Path, *libraries: Path) -> Path:
    path = folder / "spec.json"
    path.write_text(exported(libraries).to_json())
    return path


def test_two_halves_have_the_spec_of_the_whole(
    tmp_path: Path, halves: tuple[Path, Path], clips: dict[str, list[Clip]]
) -> None:
    whole = spec_of(make(tmp_path / "whole", "abcdefgh", clips.__getitem__))
    merged = exported(halves)
    assert merged.clips == 400
    for modality, part in merged.spec.parts.items():
        np.testing.assert_allclose(part.mean, whole.parts[modality].mean, atol=1e-6)
        assert part.scale == pytest.approx(whole.parts[modality].scale, rel=1e-6)
    assert abs(spec_of(halves[0]).parts["visual"].mean[0] - whole.parts["visual"].mean[0]) > 0.1


def test_a_used_spec_is_kept_by_later_runs(
    tmp_path: Path, halves: tuple[Path, Path], clips: dict[str, list[Clip]]
) -> None:
    own = hash_of(halves[0])
    path = write(tmp_path, *halves)
    shared = read_spec(path)
    assert [use_spec(folder, path).spec.to_json() for folder in halves] == [shared.spec.to_json()] * 2
    assert hash_of(halves[0]) == hash_of(halves[1]) == shared.hash != own
    with writing(halves[0]) as writer:
        add_video(writer, "new", clips["h"])
        assert writer.publish().spec.to_json() == shared.spec.to_json()
    assert rebuild(halves[0]).clips == 250
    assert hash_of(halves[0]) == shared.hash
    backup = read_backup(halves[0])
    assert backup is not None and shared.hash in backup.settings["shared_spec"]


def test_a_library_returns_to_its_own_spec_and_weights(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    adopt(halves[0], Fusion("concat", {"visual": 1.0, "speech": 0.25, "text": 0.5}))
    own = hash_of(halves[0])
    use_spec(halves[0], write(tmp_path, halves[1]))
    assert hash_of(halves[0]) == hash_of(halves[1])
    use_own_spec(halves[0])
    assert hash_of(halves[0]) == own
    assert spec_of(halves[0]).parts["speech"].weight == 0.25


def test_fusion_and_weights_belong_to_the_shared_spec(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    use_spec(halves[0], write(tmp_path, halves[1]))
    for change in (lambda: adopt(halves[0], None), lambda: rebuild(halves[0], "mean")):
        with pytest.raises(UsageError, match=r"uses the shared spec \w+, .* vfindex spec use --own"):
            change()
    assert rebuild(halves[0], "concat").fusion == "concat"
    rebuild(halves[1], "mean")
    with pytest.raises(UsageError, match="another fusion or other weights"):
        exported(halves)
    use_spec(halves[0], write(tmp_path, halves[1]))
    assert rebuild(halves[0]).fusion == "mean"
    with Library.open(halves[0]).snapshot() as snapshot:
        assert (LibraryMeta(snapshot).fusion.form, LibraryMeta(snapshot).own_fusion.form) == ("mean", "concat")


def test_a_generation_of_another_spec_is_not_extended(
    tmp_path: Path, halves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a vfindex that knows no shared specs has published meanwhile."""
    own = spec_of(halves[0])
    use_spec(halves[0], write(tmp_path, halves[1]))
    with writing(halves[0]) as writer, monkeypatch.context() as patch:
        patch.setattr(LibraryMeta, "shared_spec", None)
        patch.setattr(publication, "put_shared_spec", lambda *_: None)
        assert writer.publish(Fusion()).spec.to_json() == own.to_json()
    with writing(halves[0]) as writer:
        writer.publish()
    assert hash_of(halves[0]) == hash_of(halves[1])


def test_an_index_with_codes_finds_what_a_scan_finds_with_a_foreign_spec(
    tmp_path: Path, halves: tuple[Path, Path], clips: dict[str, list[Clip]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "EXACT_CLIPS", 50)
    monkeypatch.setattr(IvfPq, "cost", lambda *_: 0.0)
    monkeypatch.setattr(recall, "QUESTIONS", 16)
    use_spec(halves[0], write(tmp_path, halves[1]))
    shared = spec_of(halves[0])
    with writing(halves[0]) as writer:
        add_video(writer, "new", [replace(each, start_s=each.start_s) for each in clips["a"]])
        assert writer.publish().file.endswith(".segments"), "what is new is one more segment"
        while writer.merge(lambda: None):
            pass
    library = Library.open(halves[0])
    with library.snapshot() as snapshot:
        generation = snapshot.generation()
        assert generation is not None
        index = library.open_index(generation, thorough=True)
        assert index.segments[0].codes is not None and len(index) == 250
        assert generation.spec.to_json() == shared.to_json(), "of a shared spec, no distance of the mean is a drift"
        queries = np.asarray(RANDOM.standard_normal((40, generation.spec.dim)), np.float32)
        _, found = index.nearest(queries, 10)
        [(ids, rows)] = joint_batches(snapshot, generation.spec, snapshot.clip_ids())
    exact = ids[np.argsort(-queries @ rows.T, axis=1)[:, :10]]
    shares = [len(set(a.tolist()) & set(b.tolist())) / 10 for a, b in zip(found, exact, strict=True)]
    assert np.mean(shares) >= 0.99


def test_a_spec_that_loses_known_items_is_refused(
    tmp_path: Path, halves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = unit(40)
    folder = tmp_path / "spoken"
    with writing(folder) as writer:
        writer.install(SETUP, {m: prior() for m in SETUP.models}, {})
        for number, vector in enumerate(own):
            words = "".join(chr(97 + int(digit)) for digit in f"{number:03}")
            said = [Segment(0, 1, f"this video tells about {words}", "sidecar")]
            add_video(writer, words, [clip(visual=vector, speech=vector)], said)
        writer.publish()

    def questions(_: Any, items: Any, __: Any) -> list[dict[str, FloatArray]]:
        return [{"speech": own[item.video_id - 1]} for item in items]

    monkeypatch.setattr(gate, "_questions", questions)
    shared = exported([folder])
    away = {m: replace(p, mean=p.mean, query_mean=-p.mean, weight=p.weight) for m, p in shared.spec.parts.items()}
    away["speech"] = replace(away["speech"], query_mean=np.eye(DIM, dtype=np.float32)[0], weight=0.0)
    away["visual"] = replace(away["visual"], weight=1.0)
    path = tmp_path / "spec.json"
    path.write_text(replace(shared, spec=replace(shared.spec, parts=away)).to_json())
    before = hash_of(folder)
    with pytest.raises(NotPublished, match="made of the library's own titles and transcripts"):
        use_spec(folder, path)
    assert hash_of(folder) == before
    with Library.open(folder).snapshot() as snapshot:
        assert LibraryMeta(snapshot).shared_spec is None


# --- what does not fit ----------------------------------------------------------------------------------------------


def other_setups() -> Iterator[tuple[Setup, str]]:
    models = {**SETUP.models, "visual": "by foot"}
    yield replace(SETUP, models=models), r"\(visual by by hand, not by foot\)"
    templates = {m: replace(model, templates=("a photo of {}",)) for m, model in SETUP.query.items()}
    yield replace(SETUP, query=templates), r"\(other prompts of queries\)"
    yield replace(SETUP, word_weight=1.0), r"\(word_weight 0\.5, not 1\)"
    yield replace(SETUP, imputed_share=0.15), r"\(imputed_share 0, not 0\.15\)"


@pytest.mark.parametrize(("setup", "reason"), list(other_setups()))
def test_a_library_of_another_setup_is_refused(
    tmp_path: Path, halves: tuple[Path, Path], clips: dict[str, list[Clip]], setup: Setup, reason: str
) -> None:
    other = make(tmp_path / "other", "ab", clips.__getitem__, setup)
    with pytest.raises(UsageError, match=rf"it is for another setup than the library's {reason}"):
        use_spec(other, write(tmp_path, halves[0]))
    with pytest.raises(UsageError, match=r"has another setup than .*vfindex upgrade --library"):
        exported([halves[0], other])


def test_sampling_and_the_speech_model_may_differ(
    tmp_path: Path, halves: tuple[Path, Path], clips: dict[str, list[Clip]]
) -> None:
    setup = replace(SETUP, sampling="2", references={"speech": "another"})
    other = make(tmp_path / "other", "ab", clips.__getitem__, setup)
    use_spec(other, write(tmp_path, halves[0]))
    assert hash_of(other) == hash_of(halves[0])


def damaged(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield texts that are no spec, and what is said of them."""
    text = json.dumps(document)
    yield "", "cut short"
    yield text[: len(text) // 2], "cut short"
    yield "[" * 100_000, "no spec file"
    yield "[1]", "no spec file"
    yield json.dumps({"format": "other"}), "no spec file"
    yield json.dumps({**document, "version": 2}), "another version of vfindex"
    yield json.dumps({**document, "clips": -1}), "number of clips"
    yield json.dumps({**document, "clips": True}), "number of clips"
    yield json.dumps({**document, "hash": "0" * 12}), "changed after it was written"
    visual = document["spec"]["parts"]["visual"]
    for change, reason in (
        ({"scale": math.nan}, "its scale of visual is nan"),
        ({"scale": 0.0}, "its scale of visual is 0"),
        ({"scale": 1e300}, "its scale of visual"),
        ({"scale": 10**400}, "was changed"),
        ({"weight": -1.0}, "its weight of visual"),
        ({"weight": math.inf}, "its weight of visual"),
        ({"mean": base64_of(np.full(DIM, np.nan))}, "its mean of visual is no mean"),
        ({"mean": base64_of(np.ones(DIM))}, "its mean of visual is no mean"),
        ({"mean": base64_of(np.zeros(0))}, "its mean of visual is no mean"),
        ({"query_mean": base64_of(np.zeros(DIM + 1))}, "its query mean of visual is no mean"),
        ({"mean": "AAA"}, "was changed"),
        ({"mean": 5}, "was changed"),
    ):
        parts = {**document["spec"]["parts"], "visual": {**visual, **change}}
        yield json.dumps({**document, "spec": {**document["spec"], "parts": parts}}), reason
    yield json.dumps({**document, "spec": {**document["spec"], "fusion": "sum"}}), "fusion is unknown"
    yield json.dumps({**document, "spec": {**document["spec"], "fusion": "learned"}}), "lacks the learned heads"
    yield json.dumps({**document, "setup": {**document["setup"], "models": {"visual": "by hand"}}}), "other modalities"
    yield json.dumps({**document, "setup": {**document["setup"], "frame_weight": "1"}}), "was changed"


def base64_of(vector: Any) -> str:
    import base64

    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def test_a_file_that_is_no_spec_is_one_sentence(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    path = write(tmp_path, halves[0])
    before = hash_of(halves[1])
    for text, reason in damaged(json.loads(path.read_text())):
        path.write_text(text)
        with pytest.raises(UsageError, match=reason) as error:
            use_spec(halves[1], path)
        assert "\n" not in str(error.value) and str(path) in str(error.value), reason
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no spec file"):
        use_spec(halves[1], path)
    for other in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="cannot be read"):
            use_spec(halves[1], other)
    assert hash_of(halves[1]) == before


def test_a_spec_of_other_dimensions_is_refused(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    wide = tmp_path / "wide"
    with writing(wide) as writer:
        writer.install(SETUP, {m: prior(DIM + 1) for m in SETUP.models}, {})
        writer.publish()
    with pytest.raises(UsageError, match="it has 9 dimensions of visual, and the library 8 dimensions"):
        use_spec(halves[0], write(tmp_path, wide))


def test_a_damaged_setting_is_named_and_can_be_left(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    use_spec(halves[0], write(tmp_path, halves[1]))
    with writing(halves[0]) as writer:
        writer.catalog.put("shared_spec", "{}")
        with pytest.raises(LibraryDamaged, match="vfindex spec use --own"):
            writer.publish()
    use_own_spec(halves[0])
    assert hash_of(halves[0]) != hash_of(halves[1])
