"""Sounds from the audio to the hits: `heard:`, an upgrade that decodes sound only, tuning, damage, and other models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from equality import contents
from media import Shot, make_video
from tiny_clap import make_clap

from vfindex.cli.render.explain import explained
from vfindex.indexer.extractors import registry
from vfindex.indexer.extractors.registry import Registration
from vfindex.indexer.media.decoder import AudioTap, Decoder, FrameTap, Tap
from vfindex.indexer.models.presets import Choice
from vfindex.indexer.models.sound.clap import ClapEncoder
from vfindex.indexer.options import Sampling
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.repair import repair
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.runs.upgrade import upgrade
from vfindex.search.engine import SearchEngine
from vfindex.search.evaluation.datasets import Question, Relevant
from vfindex.search.evaluation.evaluate import Configuration, judge, run_questions
from vfindex.search.evaluation.tune import tune
from vfindex.search.service import SearchService
from vfindex.storage.encoders.image import LiteImageEncoder
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.errors import ModelError, UsageError
from vfindex.storage.index.model_versions import in_use
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.meta import LibraryMeta

NAME, MODEL = "audio", "tiny-clap"
TAP = AudioTap(48_000)
TONES_HZ = {"v001.mp4": 220.0, "v002.mp4": 1_000.0, "v003.mp4": (440.0, 3_000.0), "v004.mp4": None}
# Unlike each other, so that no clip counts as a copy of another.
COLOURS = {
    "v001.mp4": ("black", "white"),
    "v002.mp4": ("red", "green"),
    "v003.mp4": ("blue", "yellow"),
    "v004.mp4": ("grey", "black"),
}


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local-dir:{make_clap(tmp_path_factory.mktemp('models') / MODEL)}"


@pytest.fixture(scope="module")
def cache(models_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of this file's own, with the models of lite."""
    folder = tmp_path_factory.mktemp("cache")
    for path in models_cache.glob("lite-*"):
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Return videos of 12 s: two with a tone, one with one in each channel, one without sound."""
    folder = tmp_path_factory.mktemp("videos")
    made = [
        make_video(folder / name, shots=[Shot(colour, 6) for colour in COLOURS[name]], tone_hz=hz, keyframe_s=2.0)
        for name, hz in TONES_HZ.items()
    ]
    return [os.fsencode(path) for path in made]


def drawn(seed: int, length_s: float) -> Shot:
    """Return a shot of large squares of random colours, unlike that of any other seed."""
    squares = np.random.default_rng(seed).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    return Shot(length_s=length_s, picture=np.kron(squares, np.ones((32, 32, 1), np.uint8)))


@pytest.fixture(scope="module")
def settings(cache: Path, clap: str) -> RunSettings:
    return RunSettings(cache=cache, choice=Choice("lite", audio=clap), asr=False, workers=1)


@pytest.fixture(scope="module")
def without(cache: Path) -> RunSettings:
    return RunSettings(cache=cache, choice=Choice("lite"), asr=False, workers=1)


@pytest.fixture(scope="module")
def library(videos: list[bytes], settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library") / "lib"
    assert ingest(folder, videos, settings).indexed == 4
    return folder


@pytest.fixture(scope="module")
def plain(videos: list[bytes], without: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "lib"
    assert ingest(folder, videos, without).indexed == 4
    return folder


def names(hits: Sequence[Any]) -> list[str]:
    return [hit.video.decode().rpartition("/")[2] if hit.video else "" for hit in hits]


def test_clips_have_the_vector_of_the_window_that_they_lie_in(library: Path, videos: list[bytes], clap: str) -> None:
    encoder = ClapEncoder.open(Path(clap.removeprefix("local-dir:")), threads=1)
    for path in videos[:3]:
        with Decoder() as decoder:
            blocks = list(decoder.read(path, taps=[TAP], sampling=Sampling(), audio=decoder.probe(path).audio[0].index))
        sound = np.concatenate([block.samples for block in blocks if hasattr(block, "samples")])
        windows = encoder.encode_sounds([sound[:480_000], sound[480_000:]])
        own = {key[1]: clip for key, clip in contents(library).items() if _of(library, key[0]) == path}
        assert own
        for start_s, end_s, vectors in own.values():
            shared = [min(end_s, 10) - start_s, end_s - max(start_s, 10)]  # of the window of 10 s, and of the rest
            inside = [shared[0] >= 5, shared[1] >= 1] if shared[0] >= 5 or shared[1] >= 1 else [True, False]
            expected = windows[inside].mean(axis=0)
            assert float(vectors.embeddings[NAME] @ expected) / np.linalg.norm(expected) > 0.999
    silent = [clip for key, clip in contents(library).items() if _of(library, key[0]) == videos[3]]
    assert silent and all(NAME not in vectors.embeddings for _, _, vectors in silent)


def _of(library: Path, fingerprint: str) -> bytes:
    with Library.open(library).snapshot() as snapshot:
        [path] = [v.locations[0].path for v in snapshot.videos() if v.fingerprint == fingerprint]
    return path


def test_heard_asks_the_sound_alone_and_in_order_of_its_vectors(library: Path) -> None:
    engine = SearchEngine.open(library)
    hits = engine.search("heard:siren", per_video=3)
    with Library.open(library).snapshot() as snapshot:
        setup = LibraryMeta(snapshot).existing_setup()
        generation = snapshot.generation()
    assert generation is not None and generation.spec.parts[NAME].weight == 0
    part = generation.spec.parts[NAME]
    encoder = TextEncoder.open(Library.open(library).query_folder(setup.query[NAME]))
    asked = encoder.encode(["siren", "This is a sound of siren."]).mean(axis=0)
    asked = asked / np.linalg.norm(asked) - part.query_mean
    scores = {
        key: float(part.centre(vectors.embeddings[NAME][None])[0] @ asked)
        for key, (_, _, vectors) in contents(library).items()
        if NAME in vectors.embeddings
    }
    assert {(hit.key.fingerprint, hit.key.start_ms) for hit in hits} <= scores.keys()
    assert hits[0].score == pytest.approx(max(scores.values()), abs=2e-3)
    assert set(names(hits)) == {"v001.mp4", "v002.mp4", "v003.mp4"}, "the one without sound is none of them"
    assert all({m for m, value in hit.modalities.items() if value is not None} == {NAME} for hit in hits)
    assert any(line.startswith(NAME) for line in explained(hits[0]))
    assert engine.search("heard:siren", weights={NAME: 0.0}) == []
    assert names(engine.search('heard:"a long siren"')) and names(engine.search("heard:siren", combine="rrf"))
    assert {hit.missing["visual"] for hit in hits} == {"not asked for"}


def test_other_questions_have_the_hits_and_scores_that_they_have_without_it(library: Path, plain: Path) -> None:
    engine, other = SearchEngine.open(library), SearchEngine.open(plain)
    for query in ("a white wall", "shown:night", "titled:v001", "-shown:white black"):
        hits, expected = engine.search(query, per_video=3), other.search(query, per_video=3)
        assert [(hit.key, pytest.approx(hit.score, abs=1e-6)) for hit in hits] == [(h.key, h.score) for h in expected]
        assert all(hit.modalities[NAME] is None for hit in hits)
    assert expected[0].missing[NAME] == "not in this library; to add it: vfindex upgrade --audio NAME"
    assert other.search("heard:siren") == []
    mixed = engine.search("white heard:siren")
    assert {m for hit in mixed for m, value in hit.modalities.items() if value is not None} >= {"visual", NAME}
    [alone] = [hit for hit in engine.search("heard:siren", per_video=3) if hit.key == mixed[0].key] or [None]
    assert alone is None or mixed[0].modalities[NAME] == pytest.approx(alone.score, abs=1e-5), "white asks no sound"


def test_a_plain_question_opens_no_model_of_sounds(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_ = TextEncoder.open

    def noted(folder: Path, *, threads: int = 1) -> TextEncoder:
        opened.append(folder.name)
        return open_(folder, threads=threads)

    monkeypatch.setattr(TextEncoder, "open", noted)
    engine = SearchEngine.open(library)
    assert engine.search("a white wall")
    assert opened and MODEL not in opened
    assert engine.search("heard:siren") and opened[-1].startswith(MODEL)


def test_status_verify_and_repair(library: Path, videos: list[bytes], settings: RunSettings) -> None:
    with SearchService(library) as service:
        status = service.status()
        shown = service.video(str(os.fsdecode(videos[0])))
    assert status.lacks == () and status.models[NAME] == settings.choice.audio
    assert status.to_dict()["clips_with"][NAME] == sum(
        NAME in each.embeddings for _, _, each in contents(library).values()
    )
    assert "2 windows of sound" in str(shown.to_dict())
    assert verify(Library.open(library)).clean
    with Library.open(library).snapshot() as snapshot:
        folder = Library.open(library).query_folder(LibraryMeta(snapshot).existing_setup().query[NAME])
    weights = folder / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not verify(Library.open(library)).clean
    repair(library, settings)
    assert verify(Library.open(library)).clean
    assert SearchEngine.open(library).search("heard:siren")


def test_an_upgrade_decodes_sound_alone_and_only_where_there_is_some(
    videos: list[bytes], without: RunSettings, clap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = tmp_path / "lib", without.cache
    assert ingest(folder, videos, without).indexed == 4
    before, asked, read = contents(folder), list[tuple[Tap, ...]](), Decoder.read
    with SearchService(folder) as service:
        assert service.status().lacks == (), "it is opt-in"

    def noted(self: Decoder, path: bytes, **order: Any) -> Any:
        asked.append(order["taps"])
        return read(self, path, **order)

    def never(*_: object) -> Any:
        raise AssertionError("a frame was encoded again")

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "read", noted)
        patch.setattr(LiteImageEncoder, "encode_images", never)
        report = upgrade(folder, RunSettings(cache=cache, choice=Choice(audio=clap), workers=1))
    assert report.swapped and not report.lost
    assert (report.decoded, report.heard, report.taken_over) == (0, 3, 1)
    assert asked == [(TAP,)] * 3
    after = contents(in_use(folder))
    assert before.keys() == after.keys()
    for key, (_, _, vectors) in after.items():
        assert vectors.embeddings.keys() - before[key][2].embeddings.keys() <= {NAME}
        for modality, vector in before[key][2].embeddings.items():
            assert vector.tolist() == vectors.embeddings[modality].tolist()
        assert vectors.frames.tolist() == before[key][2].frames.tolist()
    with_sound = {key for key in after if _of(in_use(folder), key[0]) != videos[3]}
    assert {key for key, (_, _, vectors) in after.items() if NAME in vectors.embeddings} == with_sound
    assert verify(Library.open(folder)).clean
    assert upgrade(folder, RunSettings(cache=cache, choice=Choice(audio=clap), workers=1)).version == 0
    with SearchService(folder) as service:
        assert service.status().models[NAME] == clap
    assert ingest(folder, videos, without).unchanged == 4


def test_an_upgrade_of_the_rest_keeps_it_and_hears_again_where_clips_are_cut_anew(
    library: Path, settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(library, tmp_path / "lib"))
    asked, read = list[tuple[Tap, ...]](), Decoder.read

    def noted(self: Decoder, path: bytes, **order: Any) -> Any:
        asked.append(order["taps"])
        return read(self, path, **order)

    monkeypatch.setattr(Decoder, "read", noted)
    sampled = RunSettings(cache=settings.cache, choice=Choice("lite"), sampling=Sampling.parse("2"), workers=1)
    report = upgrade(folder, sampled)
    assert report.swapped and report.decoded == 4
    assert sum(TAP in taps for taps in asked) == 3 and all(any(isinstance(t, FrameTap) for t in x) for x in asked)
    with SearchService(folder) as service:
        assert service.status().models[NAME] == settings.choice.audio
    found = contents(in_use(folder))
    assert sum(NAME not in vectors.embeddings for _, _, vectors in found.values()) < len(found) / 2


def test_no_sounds_is_remembered_until_they_are_asked_for(
    videos: list[bytes], settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lib"
    assert ingest(folder, videos[:1], settings).indexed == 1
    with monkeypatch.context() as patch:
        patch.setattr(ClapEncoder, "open", None)
        assert ingest(folder, videos[1:2], replace(settings, sounds=False)).indexed == 1
        assert ingest(folder, videos[3:], settings).indexed == 1
        assert upgrade(folder, settings).version == 0, "nor does an upgrade hear them"
    with SearchService(folder) as service:
        heard = [service.video(os.fsdecode(path)).coverage[0][NAME] for path in (*videos[:2], videos[3])]
    assert heard == ["2 windows of sound", "not read: sounds were off", "no sound"]
    said: list[str] = []
    assert ingest(folder, videos[:1], replace(settings, sounds=True), Callbacks(say=said.append)).unchanged == 1
    assert said[-1] == "1 video without sounds, as sounds were off; to read it: vfindex upgrade"
    report = upgrade(folder, settings)
    assert (report.swapped, report.heard, report.decoded, report.taken_over) == (True, 1, 0, 2)
    assert upgrade(folder, settings).version == 0
    with SearchService(folder) as service:
        assert service.video(os.fsdecode(videos[1])).coverage[0][NAME] == "2 windows of sound"


def test_a_model_that_is_chosen_turns_sounds_on(
    videos: list[bytes], without: RunSettings, settings: RunSettings, tmp_path: Path
) -> None:
    folder = tmp_path / "lib"
    assert ingest(folder, videos[:1], replace(without, sounds=False)).indexed == 1
    with pytest.raises(UsageError, match="this library has no sounds; to add it: vfindex upgrade --audio NAME"):
        ingest(folder, videos[:1], replace(without, sounds=True))
    assert upgrade(folder, settings).heard == 1
    assert ingest(folder, videos[1:2], replace(without, choice=Choice())).indexed == 1
    assert {NAME} <= {m for _, _, vectors in contents(in_use(folder)).values() for m in vectors.embeddings}
    assert upgrade(folder, settings).version == 0


def test_another_model_is_another_library(
    library: Path, videos: list[bytes], cache: Path, plain: Path, tmp_path: Path
) -> None:
    other = f"local-dir:{make_clap(tmp_path / 'other-clap', seed=1)}"
    with pytest.raises(UsageError, match=r"made with --audio local-dir:\S+, not local-dir:\S+other-clap: vectors"):
        ingest(library, videos, RunSettings(cache=cache, choice=Choice(audio=other), asr=False))
    with pytest.raises(UsageError, match=r"has no audio model; add it with: vfindex upgrade --audio local-dir:"):
        ingest(plain, videos, RunSettings(cache=cache, choice=Choice(audio=other), asr=False))
    with pytest.raises(UsageError, match=r"there is no audio model 'nothing'; known are: laion/clap-htsat-unfused"):
        upgrade(plain, RunSettings(cache=cache, choice=Choice(audio="nothing")))
    with pytest.raises(ModelError, match=r"laion/clap-htsat-unfused is not on this machine; run: vfindex models pull"):
        upgrade(plain, RunSettings(cache=cache, choice=Choice(audio="laion/clap-htsat-unfused")))


def test_eval_and_tune_count_it(
    library: Path, videos: list[bytes], settings: RunSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Sounds that answer raise the weight, by plain questions; the model here says which tone it hears."""

    class Tones:
        rate_hz, window_s, dim, batch_windows = 48_000, 10.0, 32, 4

        def encode_sounds(self, sounds: Sequence[Any]) -> Any:
            peaks = [np.abs(np.fft.rfft(sound)).argmax() * 48_000 / len(sound) for sound in sounds]
            return np.stack([_word(f"tone {round(hz)}") for hz in peaks])

    def _word(text: str) -> Any:
        return encoder.encode([text])[0]

    with Library.open(library).snapshot() as snapshot:
        setup = LibraryMeta(snapshot).existing_setup()
    encoder = TextEncoder.open(Library.open(library).query_folder(setup.query[NAME]))
    monkeypatch.setitem(registry.EXTRACTORS, NAME, Registration(lambda _: _extractor(Tones())))
    folder, tones = tmp_path / "lib", [200.0 + 100 * n for n in range(24)]
    made = [
        make_video(tmp_path / f"v{n:03}.mp4", shots=[drawn(100 + n, 3)], tone_hz=hz, fps=5)
        for n, hz in enumerate(tones)
    ]
    assert ingest(folder, list(map(os.fsencode, made)), settings).indexed == 24
    questions = [
        Question(f"q{n}", f"tone {round(hz)}", (Relevant(path.name),))
        for n, (path, hz) in enumerate(zip(made, tones, strict=True))
    ]
    tuned = tune(folder, questions, "concat", folds=4)
    assert tuned.fusion.weights[NAME] > 0 and tuned.after.value > tuned.before.value and tuned.wins
    before = Configuration("before", folder)
    asked = [replace(question, text=f'heard:"{question.text}"') for question in questions]
    plain, named = (judge(each, run_questions([before], each)[0], "video") for each in (questions, asked))
    assert plain is not None and named is not None
    found = [level.figures()["all"]["nDCG@10"].value for level in (plain, named)]
    assert found[1] > found[0] + 0.3, "by its name alone, until it is tuned"


def _extractor(model: Any) -> Any:
    from vfindex.indexer.extractors.audio import AudioExtractor

    return AudioExtractor(model)
