"""What a model folder holds, ours or published: what is small is read at once, the denoiser's and the text
encoder's weights when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.conversations.tokens import TextTokenizer
from diptych.encoders.gemma import GemmaEncoder, published_instruction
from diptych.encoders.learned import LearnedEncoder
from diptych.files import folder as model_folder
from diptych.files.fields import HARMLESS, HONOURED, Fields, check_fields, only, table
from diptych.files.folder import ModelFolderError
from diptych.files.typed import convert, read_json
from diptych.flow import SamplerConfig
from diptych.models.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from diptych.models.linear_dit import FRAME_PARTS, LinearDiT, LinearDiTConfig
from diptych.models.linear_dit import convert as published
from diptych.models.meta import without_storage
from diptych.spaces import LatentSpace, load_space
from diptych.systems.sana import INDEX, NAME

PIPELINES = ("SanaPipeline", "SanaSprintPipeline")
# as published: 20 steps of DPM-Solver++, from a level of 0.999 before the shift, short of pure noise
SAMPLER = SamplerConfig(
    num_steps=20, solver="dpm", shift=3.0, first_sigma=0.999, guidance_scale=4.5, guides_below_one=False
)
SPRINT_SAMPLER = SamplerConfig(num_steps=2, solver="trigflow", guidance_scale=4.5)

Encoder = GemmaEncoder | LearnedEncoder


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """config.json of a model folder of ours."""

    family: str
    native: int
    """Side, px, of the pictures that the model was trained on."""
    null: str
    model: LinearDiTConfig
    sampler: SamplerConfig
    text: dict[str, Any]
    """`kind`: 'gemma' with the fields of GemmaFolder, or 'learned' with those of CaptionEncoderConfig."""
    control: str = ""


@dataclass(frozen=True, kw_only=True)
class GemmaFolder:
    instruction: str
    lowercase: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """A model folder that was opened."""

    model: LinearDiTConfig
    sampler: SamplerConfig
    native: int
    null: str
    null_caption: Tensor | None
    control: str
    card: dict[str, Any]
    space: LatentSpace
    weights: Mapping[str, Tensor]
    """The denoiser's, by our names, each read from disk when it is asked for."""
    all_weights: Callable[[], Mapping[str, Tensor]]
    """The same at once, mapped into memory instead of copied."""
    text: Callable[[torch.dtype | None], Encoder]
    learned: Mapping[str, Tensor] | None
    """Weights of a text encoder that learns with the denoiser; None for a frozen one."""


def open_parts(folder: Path) -> Parts:
    """Raises ModelFolderError for a folder that is not whole or of another kind."""
    return _published(folder) if (folder / INDEX).is_file() else _ours(folder)


@contextmanager
def blamed_on(folder: Path) -> Iterator[None]:
    """Errors of values that do not go together, named after the folder that holds them."""
    try:
        yield
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ModelFolderError(f"{folder} is no whole {NAME} model: {error}") from error


def _ours(folder: Path) -> Parts:
    values = model_folder.read_config(folder)
    if values.get("family") != NAME:
        raise ModelFolderError(f"{folder}: family {values.get('family')!r} is not {NAME!r}")
    stored = model_folder.open_weights(folder)
    with blamed_on(folder):
        config = convert(FolderConfig, values, str(folder / "config.json"))
        fields = dict(config.text)
        where, kind = f"{folder / 'config.json'}.text", fields.pop("kind", None)
        if kind not in ("gemma", "learned"):
            raise ValueError(f"{where}: kind must be 'gemma' or 'learned', got {kind!r}")
        learned = _Part(stored, "text.") if kind == "learned" else None

        def text(dtype: torch.dtype | None) -> Encoder:
            if learned is None:
                about = convert(GemmaFolder, fields, where)
                encoder = GemmaEncoder.load(
                    folder / "text_encoder", folder / "tokenizer", about.instruction, dtype
                )
                # published pipelines lower-case; a folder of ours says for itself
                encoder.lowercase = about.lowercase
                return encoder
            model_folder.check_depth(fields, learned, where)
            model = CaptionEncoder(convert(CaptionEncoderConfig, fields, where))
            # small, and its errors go through every step: float32 whatever the folder's precision
            model.load_state_dict({name: tensor.float() for name, tensor in learned.items()})
            return LearnedEncoder(model.eval(), TextTokenizer.load(folder / "tokenizer.json"))

        return Parts(
            model=config.model,
            sampler=config.sampler,
            native=config.native,
            null=config.null,
            null_caption=stored.get("null_caption"),
            control=config.control,
            card=model_folder.card(folder),
            space=load_space(folder / "space"),
            weights=_Part(stored, "denoiser."),
            all_weights=lambda: _Part(stored.all(), "denoiser."),
            text=text,
            learned=learned,
        )


def _published(folder: Path) -> Parts:
    """A pipeline folder of diffusers."""
    with blamed_on(folder):
        kind = convert(dict[str, Any], read_json(folder / INDEX), str(folder / INDEX)).get("_class_name")
        if kind not in PIPELINES:
            raise ValueError(f"pipeline {kind!r} is neither {' nor '.join(PIPELINES)}")
        values, scheduler = (
            # schedulers of diffusers have fields that are -Infinity
            convert(dict[str, Any], read_json(path, python=True), str(path))
            for path in (
                folder / "transformer" / "config.json",
                folder / "scheduler" / "scheduler_config.json",
            )
        )
        sampler, whole_time = sampler_of(scheduler)
        stored = model_folder.open_weights(folder / "transformer", "diffusion_pytorch_model")
        space = load_space(folder / "vae")

        def text(dtype: torch.dtype | None) -> Encoder:
            return GemmaEncoder.load(
                folder / "text_encoder", folder / "tokenizer", published_instruction(), dtype
            )

        return Parts(
            model=replace(published.config_from_diffusers(values), whole_time=whole_time),
            sampler=sampler,
            # diffusers counts in latents
            native=int(values.get("sample_size", 32)) * space.factor,
            # diffusers drops the native null caption and samples with the encoding of '' under its own mask
            null="empty",
            null_caption=None,
            control="",
            card={
                "name": folder.name,
                "family": NAME,
                "parents": [],
                "weights": "published",
            },
            space=space,
            weights=published.from_diffusers(stored),
            all_weights=lambda: published.from_diffusers(stored.all()),
            text=text,
            learned=None,
        )


DPM_FIELDS: Fields = {
    # what the betas give is replaced where sigmas are those of a flow
    **table(
        HARMLESS,
        """beta_start beta_end beta_schedule trained_betas dynamic_thresholding_ratio sample_max_value
        lower_order_final euler_at_final lambda_min_clipped timestep_spacing steps_offset
        rescale_betas_zero_snr time_shift_type""",
    ),
    "flow_shift": HONOURED,
    "num_train_timesteps": only(1000),
    "solver_order": only(2),
    "prediction_type": only("flow_prediction", absent="epsilon"),
    "algorithm_type": only("dpmsolver++"),
    "solver_type": only("midpoint"),
    "final_sigmas_type": only("zero"),
    "variance_type": only(None),
    "use_flow_sigmas": only(True, absent=False),
    **table(
        only(False),
        """thresholding use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_lu_lambdas
        use_dynamic_shifting""",
    ),
}
EULER_FIELDS: Fields = {
    **table(HARMLESS, "base_shift max_shift base_image_seq_len max_image_seq_len time_shift_type"),
    "shift": HONOURED,
    "num_train_timesteps": only(1000),
    "shift_terminal": only(None),
    **table(
        only(False),
        """use_dynamic_shifting invert_sigmas use_karras_sigmas use_exponential_sigmas use_beta_sigmas
        stochastic_sampling""",
    ),
}
SCM_FIELDS: Fields = {
    "num_train_timesteps": only(1000),
    "prediction_type": only("trigflow"),
    "sigma_data": only(0.5),
}
SCHEDULERS: Mapping[str, Fields] = {
    "DPMSolverMultistepScheduler": DPM_FIELDS,
    "FlowMatchEulerDiscreteScheduler": EULER_FIELDS,
    "SCMScheduler": SCM_FIELDS,
}


def sampler_of(scheduler: dict[str, Any]) -> tuple[SamplerConfig, bool]:
    """Our sampler for a published scheduler config, and whether the model is given whole times there. Raises
    ValueError for a scheduler or a setting that would draw something else."""
    kind = str(scheduler.get("_class_name"))
    if kind not in SCHEDULERS:
        # any other one would draw something, only worse: nothing is guessed
        raise ValueError(f"scheduler {kind!r} is none of {', '.join(SCHEDULERS)}")
    check_fields(scheduler, SCHEDULERS[kind], f"scheduler {kind}")
    if kind == "SCMScheduler":
        return SPRINT_SAMPLER, False
    name = "shift" if kind == "FlowMatchEulerDiscreteScheduler" else "flow_shift"
    shift = convert(float, scheduler.get(name, 1.0), f"scheduler {kind}: {name}")
    if kind == "FlowMatchEulerDiscreteScheduler":
        # 28 is the native default for Euler, which needs more steps than DPM-Solver++
        return replace(SAMPLER, solver="euler", schedule="diffusers_euler", shift=shift, num_steps=28), False
    # that scheduler's times are whole numbers
    return replace(SAMPLER, shift=shift), True


def stored_values(config: LinearDiTConfig, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of every parameter of a denoiser, one at a time; what `multi_frame` adds is zero where
    the weights are of a model without. Raises ValueError where they contradict the config."""
    # before a layer is made, of which a config can ask for any number
    stored = len({found[1] for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))})
    if stored != config.depth:
        raise ValueError(f"the config has {config.depth} blocks, the weights {stored}")
    with without_storage():
        # names and shapes alone: values are large, and come one at a time
        expected = LinearDiT(config).state_dict()
    if extra := sorted(set(weights) - set(expected)):
        raise ValueError(f"the config has no place for {extra[0]}")
    dtype = torch.float32
    for name, empty in expected.items():
        if name in weights:
            tensor = weights[name]
            # frame parts take the precision of what they stand among
            dtype = tensor.dtype
        elif name.endswith(FRAME_PARTS):
            tensor = torch.zeros(empty.shape, dtype=dtype)
        else:
            raise ValueError(f"the weights have no {name}")
        if tensor.shape != empty.shape:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, the config's sizes make it {tuple(empty.shape)}"
            )
        yield name, tensor


def denoiser(
    config: LinearDiTConfig, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> LinearDiT:
    """A model holding `weights` themselves: nothing is allocated twice. Raises ValueError where they
    contradict the config."""
    values = dict(stored_values(config, weights))
    with without_storage():
        model = LinearDiT(config)
    # assign: the tensors become the parameters, mapped files included
    model.load_state_dict(
        {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in values.items()}, assign=True
    )
    return model


class _Part(Mapping[str, Tensor]):
    """The tensors whose names begin alike, by the rest of their names."""

    def __init__(self, weights: Mapping[str, Tensor], beginning: str) -> None:
        self._weights, self._beginning = weights, beginning

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[self._beginning + name]

    def __iter__(self) -> Iterator[str]:
        length = len(self._beginning)
        return (name[length:] for name in self._weights if name.startswith(self._beginning))

    def __len__(self) -> int:
        return sum(1 for _ in self)
