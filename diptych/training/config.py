"""What a run is: world, model size, flow, data, optimiser and stages, as one typed object that is saved with
every run."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from diptych.data.loader import LoaderConfig
from diptych.flow import FlowConfig
from diptych.optim.build import OptimConfig
from diptych.worlds.emoji import WorldConfig

PARALLEL = ("auto", "replicated", "sharded")
WEIGHTS = ("float32", "bfloat16")
TRAINABLE = ("all", "understanding", "generation")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One part of a run: for how long, and how fast it learns. Each kind of run adds its own fields."""

    name: str
    steps: int
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"stage {self.name!r}: steps must not be negative, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run has, whatever it trains."""

    name: str
    seed: int = 0
    stages: tuple[StageConfig, ...] = ()
    ema: float = 0.998
    """Decay of the averaged weights that are sampled, validated and exported; 0: none, the weights
    themselves."""
    parallel: str = "auto"
    """Several ranks: 'replicated' (the whole model on each), 'sharded' (FSDP2), 'auto': replicated where that
    fits, printed."""
    bf16: bool = True
    """bfloat16 autocast; optimiser and EMA stay float32, and so do weights unless `weights` says
    otherwise."""
    weights: str = "float32"
    """'bfloat16': no float32 copy anywhere, for large models; needs CAME, which rounds its steps at random,
    and no EMA."""
    save_every: int = 100
    keep: int = 2
    """Checkpoints kept; the last good one is never deleted."""
    sample_every: int = 500
    log_every: int = 10
    max_skipped: int = 20
    """The run stops after this many steps in a row whose gradient was not finite."""
    max_bad_samples: int = 100
    """The run stops when more samples than this could not be used."""

    def __post_init__(self) -> None:
        if self.parallel not in PARALLEL:
            raise ValueError(f"parallel must be one of {', '.join(PARALLEL)}, got {self.parallel!r}")
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {self.weights!r}")
        if self.weights == "bfloat16" and self.ema:
            raise ValueError(
                "an EMA is a float32 copy, which weights in bfloat16 are meant to save; set --ema 0"
            )

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, int]:
        """(index of the stage, step within it)."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index, step
            step -= stage.steps
        raise ValueError(f"step {step} lies behind the last stage")


@dataclass(frozen=True, kw_only=True)
class Stage(StageConfig):
    """A stage of a joint run: its mixture, what learns, and how the two losses are weighed."""

    mixture: dict[str, float]
    """Task or source -> share of the samples."""
    trainable: str = "all"
    text_weight: float = 0.1
    flow_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainable not in TRAINABLE:
            raise ValueError(f"trainable must be one of {', '.join(TRAINABLE)}, got {self.trainable!r}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A joint run of a mixture of transformers: understanding and generation in one mix."""

    world: WorldConfig = field(default_factory=WorldConfig)
    size: int = 6
    """The model's one dial: layers; width and all else follow. A run that starts from a model takes this and
    `depth` from it."""
    depth: int | None = None
    """Layers where they are not `size`."""
    patch: int = 8
    """Side of a patch, px; a token is 2x2 patches."""
    vocab_size: int = 768
    flow: FlowConfig = field(default_factory=FlowConfig)
    data: LoaderConfig = field(default_factory=LoaderConfig)
    stages: tuple[Stage, ...] = ()


def to_json(config: Any) -> str:
    return json.dumps(dataclasses.asdict(config), indent=1)


def from_dict(cls: type[Any], values: dict[str, Any], where: str = "config") -> Any:
    """A config dataclass from plain values. Unknown keys are errors that name the nearest right one."""
    known = typing.get_type_hints(cls)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"{where}: unknown key {key!r}" + (f" (nearest: {near[0]!r})" if near else ""))
    return cls(**{key: _value(known[key], value, f"{where}.{key}") for key, value in values.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return (
            None if value is None else _value(next(a for a in arguments if a is not type(None)), value, where)
        )
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        inner = arguments[0]
        return tuple(_value(inner, item, f"{where}[{i}]") for i, item in enumerate(value))
    return value
