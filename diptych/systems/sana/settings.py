"""What a folder of the family, ours or published, says of its model: JSON, read without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diptych.files.fields import HARMLESS, HONOURED, Fields, check_fields, only, table
from diptych.files.folder import ModelFolderError, read_config
from diptych.files.typed import convert, read_json
from diptych.flow import SamplerConfig
from diptych.models.linear_dit import LinearDiTConfig
from diptych.request import Task
from diptych.settings import Settings
from diptych.spaces import factor_of
from diptych.systems.sana import INDEX, NAME

PIPELINES = ("SanaPipeline", "SanaSprintPipeline")
# as published: 20 steps of DPM-Solver++, from a level of 0.999 before the shift, short of pure noise
SAMPLER = SamplerConfig(
    num_steps=20, solver="dpm", shift=3.0, first_sigma=0.999, guidance_scale=4.5, guides_below_one=False
)
SPRINT_SAMPLER = SamplerConfig(num_steps=2, solver="trigflow", guidance_scale=4.5)


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


@contextmanager
def blamed_on(folder: Path) -> Iterator[None]:
    """Errors of values that do not go together, named after the folder that holds them."""
    try:
        yield
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ModelFolderError(f"{folder} is no whole {NAME} model: {error}") from error


def settings_of(native: int, factor: int, sampler: SamplerConfig, control: str) -> Settings:
    """Of a model trained on pictures of `native` px a side, `factor` of which make one latent; `control`
    names what its control pictures hold."""
    return Settings(
        native=native,
        multiple=factor,
        max_side=4096,
        tasks=frozenset({Task.TEXT_TO_IMAGE} | ({Task.CONTROL_TO_IMAGE} if control else set())),
        sampler=sampler,
        controls=(control,) if control else (),
    )


def read_settings(folder: Path) -> Settings:
    """Raises ModelFolderError for a folder that is not whole or of another kind."""
    with blamed_on(folder):
        if (folder / INDEX).is_file():
            published = read_published(folder)
            factor = factor_of(folder / "vae")
            return settings_of(published.native(factor), factor, published.sampler, control="")
        config = read_contents(folder)
        return settings_of(config.native, factor_of(folder / "space"), config.sampler, config.control)


def read_contents(folder: Path) -> FolderConfig:
    """config.json of a folder of ours. Raises ModelFolderError as `read_settings`."""
    values = read_config(folder)
    if values.get("family") != NAME:
        raise ModelFolderError(f"{folder}: family {values.get('family')!r} is not {NAME!r}")
    with blamed_on(folder):
        return convert(FolderConfig, values, str(folder / "config.json"))


@dataclass(frozen=True, kw_only=True)
class Published:
    """The JSON of a pipeline folder of diffusers."""

    transformer: dict[str, Any]
    sampler: SamplerConfig
    whole_time: bool

    def native(self, factor: int) -> int:
        """Side, px, of its pictures: diffusers counts in latents."""
        side = convert(int, self.transformer.get("sample_size", 32), "transformer: sample_size")
        return side * factor


def read_published(folder: Path) -> Published:
    """Raises ValueError for a pipeline, a scheduler or a setting that is not read."""
    kind = convert(dict[str, Any], read_json(folder / INDEX), str(folder / INDEX)).get("_class_name")
    if kind not in PIPELINES:
        raise ValueError(f"pipeline {kind!r} is neither {' nor '.join(PIPELINES)}")
    transformer, scheduler = (
        # schedulers of diffusers have fields that are -Infinity
        convert(dict[str, Any], read_json(path, python=True), str(path))
        for path in (
            folder / "transformer" / "config.json",
            folder / "scheduler" / "scheduler_config.json",
        )
    )
    sampler, whole_time = sampler_of(scheduler)
    # each pipeline calls its denoiser in its own way: of the other kind, it draws nothing or something else
    sprint = kind == PIPELINES[1]
    found = (bool(transformer.get("guidance_embeds")), sampler.solver == "trigflow")
    if found != (sprint, sprint):
        raise ValueError(
            f"{kind} has guidance_embeds {sprint} in its transformer and {'an' if sprint else 'no'} "
            f"SCMScheduler, here they are guidance_embeds {found[0]} and {scheduler.get('_class_name')}"
        )
    return Published(transformer=transformer, sampler=sampler, whole_time=whole_time)


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
