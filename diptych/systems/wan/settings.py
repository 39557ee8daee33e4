"""What a published folder says of its model: JSON, read without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.files.fields import HARMLESS, HONOURED, Fields, check_fields, only, table
from diptych.files.folder import ModelFolderError
from diptych.files.typed import convert, read_json
from diptych.flow import SamplerConfig
from diptych.request import Task
from diptych.settings import Settings
from diptych.systems.wan import INDEX, NAME, PIPELINE

TASKS = frozenset(
    {
        Task.TEXT_TO_IMAGE,
        Task.EDIT,
        Task.CONTROL_TO_IMAGE,
        Task.REFERENCE_TO_IMAGE,
        Task.TEXT_TO_CLIP,
        Task.IMAGE_TO_CLIP,
        Task.REFERENCE_TO_CLIP,
        Task.EDIT_CLIP,
        Task.CONTROL_TO_CLIP,
    }
)
CONTROLS = ("edges", "lines", "depth", "pose", "boxes", "gray", "flow")
"""What it was trained to follow; a picture is a clip of one frame."""
USUAL, LARGEST = (832, 480), (1280, 720)
"""px: what is drawn where nothing is said, and the largest that it was trained at."""
FRAMES, FPS = 81, 16.0
"""Of the longest clip that it was trained on, and how they follow one another."""
REFERENCES = 8
"""Media of one request: every reference is denoised as one more frame."""

SCHEDULER: Fields = {
    **table(
        HARMLESS,
        """beta_start beta_end beta_schedule trained_betas dynamic_thresholding_ratio sample_max_value
        timestep_spacing steps_offset time_shift_type""",
    ),
    "flow_shift": HONOURED,
    "num_train_timesteps": only(1000),
    "solver_order": only(2),
    "prediction_type": only("flow_prediction", absent="epsilon"),
    "predict_x0": only(True),
    "solver_type": only("bh2"),
    "lower_order_final": only(True),
    "disable_corrector": only([]),
    "final_sigmas_type": only("zero"),
    "use_flow_sigmas": only(True, absent=False),
    **table(only(None), "solver_p sigma_min sigma_max shift_terminal"),
    **table(
        only(False),
        """thresholding use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_dynamic_shifting
        rescale_betas_zero_snr""",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """The JSON of a pipeline folder."""

    transformer: dict[str, Any]
    sampler: SamplerConfig
    space: int
    """px of a side to one latent."""
    time: int
    """Frames to one latent frame, but for the first, which is one by itself."""
    patch: int
    """Latents of a side to one token."""

    @property
    def settings(self) -> Settings:
        return Settings(
            native=round(math.prod(USUAL) ** 0.5),
            multiple=self.space * self.patch,
            max_side=max(LARGEST),
            tasks=TASKS,
            sampler=self.sampler,
            aspect=USUAL,
            largest=round(math.prod(LARGEST) ** 0.5),
            max_frames=FRAMES,
            frame_step=self.time,
            fps=FPS,
            max_media=REFERENCES,
            reads_native=True,
            controls=CONTROLS,
            masked_edits=True,
        )


def read_published(folder: Path) -> Published:
    """Raises ModelFolderError for a pipeline, a scheduler or a setting that is not read."""
    try:
        return _published(folder)
    except ModelFolderError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(f"{folder} is no whole {NAME} model: {error}") from error


def _published(folder: Path) -> Published:
    index = _object(folder / INDEX)
    if index.get("_class_name") != PIPELINE:
        raise ValueError(f"{INDEX} names the pipeline {index.get('_class_name')!r}, not {PIPELINE}")
    second = index.get("transformer_2")
    if index.get("boundary_ratio") is not None or (second and second != [None, None]):
        raise ValueError(f"{INDEX} names a second transformer, and models of one are read")
    scheduler = _object(folder / "scheduler" / "scheduler_config.json")
    kind = scheduler.get("_class_name")
    if kind != "UniPCMultistepScheduler":
        raise ValueError(f"scheduler {kind!r} is not UniPCMultistepScheduler")
    check_fields(scheduler, SCHEDULER, f"scheduler {kind}")
    where = str(folder / "vae" / "config.json")
    halves = convert(list[bool], _object(folder / "vae" / "config.json")["temperal_downsample"], where)
    if not 1 <= len(halves) <= 8:
        raise ValueError(f"{where}: temperal_downsample has {len(halves)} entries, and 1 to 8 are read")
    transformer = _object(folder / "transformer" / "config.json")
    sizes = convert(tuple[int, int, int], transformer["patch_size"], "transformer: patch_size")
    if sizes[0] != 1 or sizes[1] != sizes[2] or not 1 <= sizes[1] <= 64:
        raise ValueError(f"transformer: patch_size must be 1 and two equal sides, got {sizes}")
    return Published(
        transformer=transformer,
        sampler=SamplerConfig(
            num_steps=50,
            solver="unipc",
            schedule="diffusers_unipc",
            shift=convert(float, scheduler.get("flow_shift", 1.0), "scheduler: flow_shift"),
            guidance_scale=5.0,
            guides_below_one=False,
        ),
        space=2 ** len(halves),
        time=2 ** sum(halves),
        patch=sizes[1],
    )


def _object(path: Path) -> dict[str, Any]:
    # schedulers of diffusers have fields that are -Infinity
    return convert(dict[str, Any], read_json(path, python=True), str(path))
