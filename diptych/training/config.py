"""What every run is: name, stages, averages, ranks, precision, as one typed object that is saved with it.
Each family adds its own fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from diptych.optim.build import OptimConfig
from diptych.request import check_seed

PARALLEL = ("auto", "replicated", "sharded")
WEIGHTS = ("float32", "bfloat16")
LORA = "lora"


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One part of a run: for how long, what learns, and how fast. Each kind of run adds its own fields."""

    parts: ClassVar[tuple[str, ...]] = ("all", LORA)
    """What `trainable` may be."""

    name: str
    steps: int
    trainable: str = "all"
    """'all'; 'lora': the adapters alone; or a part that this kind of run knows."""
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if self.trainable not in self.parts:
            raise ValueError(f"trainable must be one of {', '.join(self.parts)}, got {self.trainable!r}")
        if self.steps < 0:
            raise ValueError(f"stage {self.name!r}: steps must not be negative, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run has, whatever it trains."""

    changeable: ClassVar[frozenset[str]] = frozenset(
        {
            "steps",
            "save_every",
            "keep",
            "sample_every",
            "log_every",
            "max_skipped",
            "max_bad_samples",
            "parallel",
            "checkpoint_blocks",
            "compile_blocks",
        }
    )
    """Fields, of a config or of its parts, that a run which goes on may be given anew; all others decide what
    it computes, and stay."""
    name: str
    start: str = ""
    """Model that a new run starts from: 'default', a folder or 'hf:owner/name'; '': from scratch. A run that
    goes on has it already."""
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
    checkpoint_blocks: bool = False
    """Recompute blocks in the backward pass: a third more time, a fraction of the memory for activations."""
    compile_blocks: bool = False
    """Compile each block: a minute at the start, faster steps on GPUs."""
    lora_rank: int = 0
    """Above 0: adapters of this rank on the blocks' matrices, which the stages that train 'lora' train."""
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
        for name in ("save_every", "keep", "sample_every", "log_every", "max_skipped"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_seed(self.seed)
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be 0 (no average) or above, and below 1, got {self.ema}")
        if self.max_bad_samples < 0:
            raise ValueError(f"max_bad_samples must be 0 or above, got {self.max_bad_samples}")
        names = [stage.name for stage in self.stages]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            # jobs tell by a stage which of them it is, and so where its data begin
            raise ValueError(f"two stages are called {twice!r}: give each a name of its own")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be 0 (no adapters) or above, got {self.lora_rank}")
        # stages of no steps are those that a user has switched off
        trained = [stage.trainable for stage in self.stages if stage.steps]
        if LORA in trained and not self.lora_rank:
            raise ValueError("a stage trains 'lora', but lora_rank is 0")
        if self.lora_rank and trained and LORA not in trained:
            raise ValueError(f"lora_rank is {self.lora_rank}, but no stage trains 'lora'")
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
