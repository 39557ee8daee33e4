"""Settings of training noise and of sampling; both are saved with the weights, so they cannot disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from diptych.flow.law import NoiseLaw
from diptych.flow.objective import Objective

NOISE_SCALE_MODES = ("resolution", "dynamic_sqrt", "fixed")
GUIDANCE_NORMS = ("none", "global", "channel", "zero_star", "projected")
SOLVERS = ("euler", "dpm", "trigflow", "unipc")
SCHEDULES = ("shifted", "diffusers_euler", "diffusers_unipc")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a picture is drawn unless a plan says otherwise."""

    num_steps: int = 30
    solver: str = "euler"
    """'euler'; 'dpm': Flow-DPM-Solver++ 2M (SANA's); 'trigflow': Sprint's few steps; 'unipc': UniPC of second
    order (Wan's)."""
    schedule: str = "shifted"
    """'shifted': evenly spaced levels, shifted; 'diffusers_euler': those of its
    FlowMatchEulerDiscreteScheduler, shifted twice; 'diffusers_unipc': of its UniPCMultistepScheduler."""
    first_sigma: float = 1.0
    """Highest level before the shift; SANA's DPM-Solver starts at 0.999, since its half log ratio is infinite
    at 1."""
    # 3 is what SANA's published configs train and draw with up to 2048 px, but for the 0.6B model at 1024 px
    # (4); at 4096 px they take 6
    shift: float = 3.0
    """s in sigma' = s sigma / (1 + (s - 1) sigma): above 1 spends more steps near noise."""
    # the scales that SenseNova-U1 names best: 4 for text, 1 for pictures
    guidance_scale: float = 4.0
    image_guidance_scale: float = 1.0
    """Guidance towards the source pictures of an edit; 1 saves the third pass."""
    guides_below_one: bool = True
    """Whether a scale below 1 mixes in the unconditional pass; off, the conditional pass stands
    alone then, as at 1."""
    guidance_norm: str = "none"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels (sigma) between which guidance is on; in edits not at the two levels themselves."""
    sigma_min: float | None = None
    """In place of `Objective.sigma_min`, for drawing alone; SenseNova-U1 draws with 0.02 and was trained with
    0.05."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps <= 1000:
            raise ValueError(f"num_steps must be 1 to 1000, got {self.num_steps}")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift must be a number above 0, got {self.shift}")
        for name, known in (("guidance_norm", GUIDANCE_NORMS), ("solver", SOLVERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 < self.first_sigma <= 1:
            raise ValueError(f"first_sigma must be above 0 and at most 1, got {self.first_sigma}")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(
                "guidance_interval must be two noise levels in 0..1, the lower first, got "
                f"{self.guidance_interval}"
            )
        if self.sigma_min is not None and not 0 < self.sigma_min < 1:
            raise ValueError(f"sigma_min must lie between 0 and 1, got {self.sigma_min}")


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """The path from picture to noise, the law of training noise levels and the objective."""

    noise_scale: float = 1.0
    noise_scale_mode: str = "resolution"
    """'resolution': noise_scale * sqrt(N / base) for N tokens; 'dynamic_sqrt': the square root of that;
    'fixed'."""
    # 256 x 256 px in tokens of 32 px: the size at which SenseNova-U1's noise has the deviation noise_scale
    noise_scale_base_tokens: int = 64
    # the published code limits it in sampling alone, so that it draws large pictures from other noise than it
    # was trained on
    noise_scale_max: float = 8.0
    """The noise scale is limited to this, in training and in sampling alike."""
    # SenseNova-U1's mean of -0.8 is one of t = 1 - sigma, so it is +0.8 of sigma
    law: NoiseLaw = field(default_factory=lambda: NoiseLaw(mean=0.8, std=0.8, shift=1.0))
    # the published t_eps
    objective: Objective = field(default_factory=lambda: Objective(sigma_min=0.05))
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        if self.noise_scale_mode not in NOISE_SCALE_MODES:
            raise ValueError(
                f"noise_scale_mode must be one of {', '.join(NOISE_SCALE_MODES)}, got "
                f"{self.noise_scale_mode!r}"
            )
        if self.noise_scale <= 0 or self.noise_scale_max <= 0:
            raise ValueError(
                "noise_scale and noise_scale_max must be above 0, got "
                f"{self.noise_scale} and {self.noise_scale_max}"
            )
        if self.noise_scale_base_tokens < 1:
            raise ValueError(
                f"noise_scale_base_tokens must be at least 1, got {self.noise_scale_base_tokens}"
            )

    @property
    def drawn_sigma_min(self) -> float:
        """What the velocity of a predicted clean picture is divided by at least, in drawing."""
        return self.sampler.sigma_min or self.objective.sigma_min
