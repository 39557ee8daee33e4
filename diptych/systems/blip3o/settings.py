"""What a folder of the family says of its model: JSON, read without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from diptych.family import OpenSystem
from diptych.files.folder import DEFAULT, HUB, ModelFolderError, card, locate, read_config
from diptych.files.typed import convert, read_json
from diptych.files.whole import checksum
from diptych.flow import SamplerConfig
from diptych.models.connector import BridgeConfig, ReferenceConfig
from diptych.models.feature_dit import FeatureDiTConfig
from diptych.models.linear_dit import LinearDiTConfig
from diptych.request import Task
from diptych.settings import Settings
from diptych.spaces.factor import factor_of
from diptych.spaces.facts import KIND, FeatureFacts
from diptych.systems.blip3o import DECODER, MODEL_TYPES, NAME

BACKBONE, SPACE = "backbone", "space"
"""In a folder of ours: a language model that the folder holds, and the image space."""
DENOISERS: Mapping[str, type[FeatureDiTConfig | LinearDiTConfig]] = {
    "feature_dit": FeatureDiTConfig,
    "linear_dit": LinearDiTConfig,
}
DenoiserConfig = FeatureDiTConfig | LinearDiTConfig
# as published: 30 steps at even levels from 1 to 1/30, and zeros as the unconditional pass
SAMPLER = SamplerConfig(num_steps=30, solver="euler", shift=1.0, guidance_scale=3.0)
REQUEST = "Please generate image based on the following caption: {}"
"""What a prompt becomes for published weights."""
MAX_LATENT_SIDE = 4096
"""px a side of the largest picture in a space of latents."""
MAX_MEDIA = 8
"""Pictures that a language model of transformers looks at for one question."""


@dataclass(frozen=True, kw_only=True)
class NamedBackbone:
    """The language model that a bridge hangs on."""

    model: str = BACKBONE
    """'default', 'hf:owner/name', or a folder as seen from this one."""
    sha256: str = ""
    """What `identity_of` that folder must be; '' for one that this folder holds."""
    ours: bool = False
    """Whether it is a model of a family of ours, handed in by the opener, and not a folder of
    transformers."""
    request: str = "{}"
    """What a prompt becomes before it is asked."""
    mark: int | None = None
    """Token that ends the request."""

    def __post_init__(self) -> None:
        if self.request.count("{}") != 1:
            raise ValueError(f"request must hold one {{}}, where the prompt goes, got {self.request!r}")
        if (self.model == BACKBONE) == bool(self.sha256):
            raise ValueError(
                f"a backbone that the folder does not hold has a sha256, and {BACKBONE!r} has none, got "
                f"{self.model!r} with {self.sha256!r}"
            )


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """config.json of a model folder of ours."""

    family: str
    native: int
    """Side, px, of the pictures that it draws."""
    denoiser: dict[str, Any]
    """`kind`, one of `DENOISERS`, and the fields of its config."""
    bridge: BridgeConfig
    backbone: NamedBackbone = field(default_factory=NamedBackbone)
    reference: ReferenceConfig | None = None
    """Of a model that changes pictures."""
    sampler: SamplerConfig = SAMPLER

    @property
    def model(self) -> DenoiserConfig:
        """Raises ValueError for a denoiser that is not known."""
        return denoiser_config(self.denoiser)


def denoiser_config(fields: Mapping[str, Any]) -> DenoiserConfig:
    """Of `denoiser_fields`."""
    values = dict(fields)
    kind = values.pop("kind", None)
    if kind not in DENOISERS:
        raise ValueError(f"denoiser: kind must be one of {', '.join(DENOISERS)}, got {kind!r}")
    return convert(DENOISERS[kind], values, "denoiser")


def denoiser_fields(config: DenoiserConfig) -> dict[str, Any]:
    kind = next(name for name, known in DENOISERS.items() if isinstance(config, known))
    return {"kind": kind, **asdict(config)}


@contextmanager
def blamed_on(folder: Path) -> Iterator[None]:
    """Errors of values that do not go together, named after the folder that holds them."""
    try:
        yield
    except ModelFolderError:
        raise
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ModelFolderError(f"{folder} is no whole {NAME} model: {error}") from error


def is_published(folder: Path) -> bool:
    """Whether a folder holds a model in the published layout. Never raises."""
    try:
        values = read_json(folder / "config.json")
    except ValueError:
        return False
    return isinstance(values, dict) and values.get("model_type") in MODEL_TYPES


def read_contents(folder: Path) -> FolderConfig:
    """config.json of a folder of ours. Raises ModelFolderError for a folder that is not whole or of another
    kind."""
    values = read_config(folder)
    if values.get("family") != NAME:
        raise ModelFolderError(f"{folder}: family {values.get('family')!r} is not {NAME!r}")
    with blamed_on(folder):
        contents = convert(FolderConfig, values, str(folder / "config.json"))
        _ = contents.model
        return contents


def located(folder: Path, about: NamedBackbone) -> Path:
    """The folder of a backbone. Raises ModelFolderError where there is none."""
    if about.model == DEFAULT or about.model.startswith(HUB):
        return locate(about.model)
    found = folder / about.model
    if not found.is_dir():
        raise ModelFolderError(
            f"{folder / 'config.json'} names the backbone {about.model!r}, and {found} is no folder here"
        )
    return found


def identity_of(folder: Path) -> str:
    """Checksum of a model folder: of its card's checksums, or of its files where it has no card."""
    # what a card says of files is looked after where they are opened
    sums = card(folder).get("sha256")
    if not isinstance(sums, dict) or not sums:
        names = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors") and p.is_file())
        sums = {path.name: checksum(path) for path in names}
    import hashlib

    return hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()


def check_identity(folder: Path, about: NamedBackbone, found: Path) -> None:
    """Raises ModelFolderError for another backbone than the one that was trained with."""
    if about.sha256 and (here := identity_of(found)) != about.sha256:
        raise ModelFolderError(
            f"{folder} was trained on another backbone than {found}: it needs the model {about.sha256[:16]}, "
            f"and this one is {here[:16]}"
        )


def language_settings(sees: bool) -> Settings:
    """Of a language model of transformers, which answers."""
    return Settings(
        # nothing is drawn by it, and its own processor brings pictures to size
        native=1,
        multiple=1,
        max_side=1,
        tasks=frozenset({Task.ANSWER}),
        sampler=SamplerConfig(),
        max_media=MAX_MEDIA if sees else 0,
        free=True,
    )


def settings_of(
    native: int, multiple: int, sampler: SamplerConfig, speaks: Settings, edits: bool = False
) -> Settings:
    """Of a model that draws pictures of `native` px, and answers as its language model does (`speaks`);
    `edits`: and changes pictures, one at a time."""
    draws = {Task.TEXT_TO_IMAGE, Task.EDIT} if edits else {Task.TEXT_TO_IMAGE}
    return replace(
        language_settings(sees=True),
        native=native,
        multiple=multiple,
        # features hold pictures of one size
        max_side=native if multiple == native else max(native, MAX_LATENT_SIDE),
        tasks=frozenset(draws) | (speaks.tasks & {Task.ANSWER}),
        sampler=sampler,
        max_media=max(speaks.max_media, int(edits)),
        reads_native=edits,
        free=speaks.free,
        max_text=speaks.max_text,
        clip_frames=speaks.clip_frames,
        parts=((speaks.tasks & {Task.ANSWER}, speaks),),
    )


def sees(folder: Path) -> bool:
    """Whether a folder of transformers holds a model that is shown pictures, and what prepares them."""
    there = any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))
    return there and isinstance(read_config(folder).get("vision_config"), dict)


def read_settings(folder: Path, open_system: OpenSystem) -> Settings:
    """Raises ModelFolderError for a folder that is not whole or of another kind."""
    if is_published(folder):
        with blamed_on(folder):
            native = published_native(folder)
            return settings_of(native, native, SAMPLER, language_settings(sees=True))
    contents = read_contents(folder)
    with blamed_on(folder):
        found = located(folder, contents.backbone)
        speaks = open_system.settings(found) if contents.backbone.ours else language_settings(sees(found))
        multiple = _multiple(folder / SPACE, contents.model.patch)
        edits = contents.reference is not None
        return settings_of(contents.native, multiple, contents.sampler, speaks, edits)


def _multiple(space: Path, patch: int) -> int:
    """Sides of pictures are multiples of this, px."""
    path = space / "config.json"
    values = convert(dict[str, Any], read_json(path), str(path))
    if values.get("kind") == KIND:
        return convert(FeatureFacts, values, str(path)).native
    return factor_of(space) * patch


def published_native(folder: Path) -> int:
    """Side, px, of the pictures that a published folder's detokenizer draws."""
    unet, vae = (
        convert(dict[str, Any], read_json(path), str(path))
        for path in (folder / DECODER / part / "config.json" for part in ("unet", "vae"))
    )
    side = convert(int, unet.get("sample_size"), "unet: sample_size")
    blocks = len(convert(list[Any], vae.get("block_out_channels"), "vae: block_out_channels"))
    return side * 2 ** (blocks - 1)
