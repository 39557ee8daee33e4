"""What the parts of the house promise each other. Engines know these and no system; systems implement them.

One sentence holds every system: a request becomes a plan; the plan's prompt and media become a *condition*,
computed once; a *denoiser* turns noise into a target under flow matching; an *image space* turns the target
into pictures.

Shapes: B rows of a batch, F frames, C channels, H and W sides of a target; pixels are uint8 RGB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from diptych.flow import SamplerConfig
from diptych.request import Message, Role, Task
from diptych.settings import Settings

if TYPE_CHECKING:
    # plans are made by these contracts, before torch and numpy are loaded
    import numpy as np
    import torch
    from torch import Tensor, nn

VERIFY = "does this picture show {}?"
"""What a model is asked about a picture, with the prompt in it; models that verify learn these words."""


# eq=False, here and below: dataclasses would compare tensors with ==, which has no single truth value
@dataclass(frozen=True, eq=False)
class Prompt:
    """The words of one row."""

    text: str
    negative: str = ""
    """What a pass without the text reads in its place; '': nothing at all."""
    states: Tensor | None = None
    """Hidden states (T, channels) of `text` that a cache holds, where the text encoder never changes."""
    context: Tensor | None = None
    """Rows (K, channels) that stand behind those of the text, for a system that takes some (`TakesContext`);
    they go with the text where that is dropped."""
    history: tuple[Message, ...] = ()
    """Turns before the text, for a system that holds conversations; so are the fields below."""
    thought: Written | None = None
    """What the model has thought before it draws."""
    begun: tuple[str | Picture | Written, ...] | None = None
    """What the model has said and drawn so far, of an answer with text and pictures in turn; None for a
    picture that is the whole answer."""
    think: bool = False
    """Whether such an answer begins with thoughts, which are then the first of what it says."""


@dataclass(frozen=True, eq=False)
class Given:
    """One frame that is given: its role, its place in time, and what it shows."""

    role: Role
    pixels: Tensor
    """uint8 (3, height, width), of any size; a system brings it to the size that it reads."""
    time: int = 0
    """In frames of what is drawn; what has no place in time is at 0."""
    target: Tensor | None = None
    """What the image space makes of `pixels` (C, H, W), from a cache; then `pixels` may be empty."""


@dataclass(frozen=True, eq=False)
class Stack:
    """The frames of one row: the size and the times of those to be drawn, and those that are given."""

    width: int
    height: int
    """px of a frame to be drawn; the same for all rows of a batch."""
    times: tuple[int, ...] = (0,)
    """Place in time of each frame to be drawn; as many for all rows of a batch."""
    given: tuple[Given, ...] = ()


class Condition(Protocol):
    """What no denoising step changes, for B rows, computed once. Made by `System.read`.

    There is at least one row, and what goes with rows has one entry for each: reading none, choosing none and
    masks of another length raise ValueError, see `check_rows`.

    Differentiable where gradients are on; what it needs may be computed when it is first used.
    """

    @property
    def scale(self) -> Tensor:
        """(B,), float32: standard deviation of the noise that each row starts from."""
        ...

    def __len__(self) -> int:
        """B."""
        ...

    def dropped(self, text: Tensor, media: Tensor) -> Self:
        """The same rows without their text, or without their given frames, where the masks (B,) are True.

        What stands in place of the text is the row's negative prompt, or the system's null text. The passes
        of guidance and training's dropout both come from here, so that a model is shown in training what it
        sees when it draws. Rows whose mask is False stay what they are, up to the rounding of a batch
        whose other rows have become longer or shorter.
        """
        ...

    def with_guidance(self, scales: Tensor) -> Self:
        """The same rows told their guidance scales (B,), for a model that embeds them
        (`System.embeds_guidance`). Raises ValueError for any other."""
        ...

    def prepare(self) -> None:
        """Compute now what would else be computed at the first use."""
        ...

    def rows(self, index: Sequence[int]) -> Self:
        """Some of the rows, in this order."""
        ...

    def joined(self, others: Sequence[Self]) -> Self:
        """The rows of this and of other conditions, one after the other. Raises ValueError where they differ
        in size or in the roles of their frames, so that no one pass could denoise them."""
        ...


def check_rows(rows: int, **columns: Sized) -> None:
    """Raises ValueError where there are no rows, or where one of `columns`, by name, has not one entry for
    each of them."""
    if not rows:
        raise ValueError("a condition has at least one row, got none")
    for name, column in columns.items():
        if len(column) != rows:
            raise ValueError(f"{name} must have one entry a row, {rows} in all, got {len(column)}")


class ImageSpace(Protocol):
    """Pictures and clips <-> the tensors that the flow runs in: pixels, latents, features."""

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 (B, F, 3, height, width) -> targets (B, F, C, H, W), float32. Raises ValueError for sides
        that the space cannot hold, see `round_size`."""
        ...

    def decode(self, target: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Targets (B, F, C, H, W) -> uint8 (B, F, 3, height, width). `seeds`, one a row, are for spaces that
        draw when they decode."""
        ...

    def shape(self, width: int, height: int, frames: int = 1) -> tuple[int, int, int, int]:
        """(F, C, H, W) of the target of a picture or clip."""
        ...

    def round_size(self, width: int, height: int) -> tuple[int, int]:
        """The nearest size, px, that the space can hold."""
        ...

    def identity(self) -> str:
        """Names the space and all that its output depends on: caches are keyed by it."""
        ...


@dataclass(frozen=True, kw_only=True)
class AnswerLimits:
    """How an answer is written."""

    max_tokens: int | None = None
    """None: as many as the model's settings say."""
    temperature: float = 0.0
    """What logits are divided by before a token is drawn at random; 0: always the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability may be drawn."""
    seed: int = 0
    """Of the draws; every row of a batch draws as it would alone."""
    stop: tuple[str, ...] = ()
    """Texts before which an answer ends."""
    allowed_tokens: Callable[[list[int]], Sequence[int]] | None = None
    """Tokens that may follow those written so far; None: any. So an answer keeps to a grammar."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be 0 or more and below 2^64, got {self.seed}")
        if isinstance(self.stop, str) or "" in self.stop:
            raise ValueError(f"stop must be texts that are not empty, got {self.stop!r}")


class System(Protocol):
    """One model with all that it needs to be asked and to draw. Training tasks and drawing call the same
    `read` and `denoise`; nothing else in the project builds a condition."""

    family: str
    """Name of its `Family`."""
    card: dict[str, Any]
    """What it was trained on, by which command, where it comes from."""
    model: Any
    """Its `BlockModel`: what surgery, training and estimates work on."""
    native: int
    """Side, px, of the pictures that the model was trained on: `settings.native`."""
    token: int
    """Side, in values of the target, of what the denoiser takes for one token."""

    @property
    def settings(self) -> Settings:
        """What it can do, as its family's `settings` reads it off a folder."""
        ...

    @property
    def space(self) -> ImageSpace: ...

    @property
    def sampler(self) -> SamplerConfig:
        """`settings.sampler`."""
        ...

    @property
    def text(self) -> TextEncoder | None:
        """What reads prompts, where that is a part of its own whose hidden states a cache may hold."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def joins_passes(self) -> bool:
        """Whether the passes of guidance are faster as one batch than one after the other."""
        ...

    @property
    def embeds_guidance(self) -> bool:
        """Whether the guidance scale is an input of the model (a distilled one), which then needs no second
        pass."""
        ...

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> Condition:
        """The condition of B rows: everything that is constant across denoising steps, computed once.

        `prompts` and `stacks` have one entry a row; all rows draw the same size and number of frames.
        Gradients flow to whatever of the system learns: a text encoder that learns with its denoiser, the
        understanding stream of a native model. Frozen parts give none. Nothing is dropped here and nothing is
        guided: see `Condition.dropped`.

        Raises RequestError for words or frames that this system cannot read, ValueError for rows of different
        sizes.
        """
        ...

    # condition: Any, since a system denoises under conditions that it has read itself, and its parameter is
    # its own class: a narrower one than `Condition`, which a protocol's method may not ask for
    def denoise(self, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """Velocity dx/dsigma, unguided, of noisy targets x (B, F, C, H, W); float32, of x's shape, under a
        condition that this system has read.

        `sigma` is (B,), or (B, F) with a noise level for each frame, so that rows at different steps may
        share a batch; 0 = clean, 1 = noise, x = (1 - sigma) x0 + sigma * scale * eps. Row i is denoised under
        row i of the condition and does not depend on the other rows. Differentiable in x and in the weights.
        """
        ...

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """A picture (height, width, 3) at a size that this system reads."""
        ...

    def answer(self, messages: Sequence[Message], limits: AnswerLimits = AnswerLimits()) -> Iterator[str]:
        """The answer to a conversation, piece by piece. Raises RequestError where the system does not
        answer."""
        ...

    def answers(
        self, conversations: Sequence[Sequence[Message]], limits: AnswerLimits = AnswerLimits()
    ) -> list[str]:
        """Answers to many conversations at once."""
        ...

    def log_odds(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """log p(yes) - log p(no) of the first word of each answer."""
        ...

    def accelerate(self) -> None:
        """Make drawing faster, for a system that will not be trained or saved soon."""
        ...

    def parts(self) -> dict[str, nn.Module]:
        """Modules by name, for parameter counts."""
        ...

    def save(self, folder: Path) -> None:
        """Write a whole model folder, card and checksums included."""
        ...


@runtime_checkable
class HandsOn(Protocol):
    """A system that hands tasks to others; its settings say which."""

    def carrier(self, task: Task) -> System:
        """The system that carries out a task. Raises RequestError for one that nothing at hand does."""
        ...


@runtime_checkable
class TakesContext(Protocol):
    """A system whose text context may be longer than its text: `Prompt.context`."""

    @property
    def context_channels(self) -> int: ...


class TextEncoder(Protocol):
    """Prompts to hidden states."""

    channels: int

    def encode(self, prompts: Sequence[str], instruct: bool = True) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, channels) and mask (B, T), True = real, real tokens first, T as long as the
        longest.

        `instruct`: behind the encoder's instruction, if it has one; the null text is read without."""
        ...

    def identity(self) -> str | None:
        """Names the encoder and all that its output depends on: caches are keyed by it. None for one that
        learns, whose hidden states are never kept."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A language model that a bridge, a projector or a planner hangs on: a frozen VLM, or a native model of
    ours."""

    channels: int

    def tokens(self, text: str) -> list[int]:
        """Ids of a text; marks typed in it are only text."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Ids (B, T) -> embeddings (B, T, channels)."""
        ...

    def hidden(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states (B, T, channels) of embeddings, causal; mask (B, T), True = real, padding on the
        right.

        Differentiable in the embeddings, whether or not the backbone itself learns."""
        ...


class Verifier(Protocol):
    """Says whether pictures show what was asked: higher is better."""

    name: str

    def score(self, prompt: str, pictures: Sequence[np.ndarray]) -> list[float]:
        """One score for each picture, uint8 (height, width, 3)."""
        ...


@dataclass(frozen=True, kw_only=True)
class BlockFacts:
    """What engines must know of a model of blocks; stated by the model, beside its layers. Names are those of
    modules within a block, or of the whole model where that is said."""

    # names, not code in the engines: growth, LoRA and sharding work on any model that states them
    silent: tuple[str, ...]
    """Last projections of a block's branches: where their parameters are zero, the block returns its
    input."""
    fused: Mapping[str, int] = field(default_factory=dict)
    """Layer (last part of its name, anywhere in the model) -> how many things its output is, one after the
    other."""
    adapted: tuple[str, ...] = ()
    """Matrices that LoRA adapters are put on."""
    calls: tuple[str, ...] = ()
    """Methods of a block that are called apart from its forward: its weights are gathered for them as
    well."""
    apart: tuple[str, ...] = ()
    """Modules of the model outside the blocks that are as large as one, and are sharded by themselves."""
    vocabulary: tuple[str, ...] = ()
    """Modules of the model whose weight has a row for each token."""
    streams: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Part of the model that is counted by itself -> pieces of the names of its parameters; what has none of
    them is shared."""
    cached: Callable[[Any], int] | None = None
    """Values that a model of this config keeps of each token that it has read; None for one that keeps
    none."""


class BlockModel(Protocol):
    """A model whose body is a list of blocks of one kind; an nn.Module made of its config alone."""

    facts: ClassVar[BlockFacts]
    config: Any
    """A frozen dataclass with `depth`, `width` (channels), `heads` and `widened(factor)`: the config of a
    model that is factor times as wide, heads and inner units included; raises ValueError where that could
    not compute the same."""
    blocks: nn.ModuleList

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of every parameter for training from scratch, one at a time, so that no more than one
        is ever held."""
        ...

    def new_block(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh tensors of a block that is put on top of trained ones. Growth silences it by `facts`, so that
        it returns its input to the bit."""
        ...


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture inside a turn: RGB (height, width, 3), uint8, or float32 with 0..1 for black to white: what a
    model has drawn is read back as it is, neither rounded nor clamped. Or a clip (frames, height, width, 3),
    whose frames see one another. `drawn` ones are to be generated, others are read."""

    pixels: np.ndarray
    drawn: bool = False

    def __post_init__(self) -> None:
        if (
            self.pixels.ndim not in (3, 4)
            or self.pixels.shape[-1] != 3
            or 0 in self.pixels.shape
            or self.pixels.dtype not in ("uint8", "float32")
        ):
            raise ValueError(
                "a picture must be uint8 or float32 (height, width, 3), a clip (frames, height, width, 3), "
                f"got {self.pixels.dtype} {self.pixels.shape}"
            )

    @property
    def frames(self) -> np.ndarray:
        """(frames, height, width, 3); a picture is one frame."""
        return self.pixels if self.pixels.ndim == 4 else self.pixels[None]


TEXT, CLEAN, NOISY, PAD = 0, 1, 2, -1
"""What a slot of a packed row holds: words, a token of a picture that is read, of one that is drawn,
nothing."""


@dataclass(frozen=True)
class Written:
    """What a model has written, as its own tokens: said again in other tokens of the same text, it would not
    be the same context."""

    ids: tuple[int, ...]


SPEAKERS = ("user", "assistant", "system")


@dataclass(frozen=True, eq=False)
class Turn:
    role: str
    parts: tuple[str | Picture | Written, ...]

    def __post_init__(self) -> None:
        if self.role not in SPEAKERS:
            raise ValueError(f"role must be one of {', '.join(SPEAKERS)}, got {self.role!r}")
        if self.role != "assistant" and any(isinstance(p, Picture) and p.drawn for p in self.parts):
            raise ValueError("only the assistant draws: a drawn picture must stand in an assistant turn")


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample for every task: conversation turns with text and pictures in order."""

    turns: tuple[Turn, ...]
    task: str
    """Name under which its losses are reported: understand, generate, edit, interleave, text; clip (drawn
    from words), clip-edit (drawn by what is given)."""
    origin: str = field(default="", compare=False)
    """Where it comes from, as file:line, for messages."""

    @property
    def pictures(self) -> list[Picture]:
        return [part for turn in self.turns for part in turn.parts if isinstance(part, Picture)]


class BadSample(ValueError):
    """A sample that cannot be used; the message says which file, which line and why."""


class Source(Protocol):
    """Samples by number: what a mixture draws from."""

    name: str

    def draw(self, number: int) -> Sample:
        """A pure function of the number. Raises BadSample for one that cannot be read."""
        ...


class Losses(Protocol):
    """What one batch gave."""

    @property
    def sums(self) -> dict[str, Tensor]:
        """Differentiable sums by name; the loop divides each by the whole step's total of that name."""
        ...

    def by_kind(self, batch: Any) -> dict[str, list[float]]:
        """Single losses under the names that they are logged by."""
        ...


class Job(Protocol):
    """What a training run trains, on what: the contract between the loop and a system.

    A job is cheap to make: its model lies on the meta device until the loop has placed it.
    """

    family: str
    config: Any
    """The run's resolved `training.config.RunConfig`."""
    parent: dict[str, Any] | None
    """Card of the model that a new run starts from; None for a run from scratch, and for one that goes on."""
    loss_names: tuple[str, ...]

    @property
    def model(self) -> nn.Module:
        """All that may learn, without storage."""
        ...

    @property
    def task(self) -> nn.Module:
        """task(batch) -> Losses; holds the model."""
        ...

    @property
    def body(self) -> BlockModel:
        """The part of the model whose blocks are recomputed, compiled and sharded one by one."""
        ...

    def starting_values(self) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of every parameter of `model` before the first step, one at a time: of the model that
        the run starts from, or fresh ones."""
        ...

    def optimiser_state(self) -> Mapping[str, Tensor]:
        """State that comes along with the starting values, as a checkpoint names it; {} for none."""
        ...

    def totals(self, batch: Any) -> dict[str, float]:
        """What the sums of a batch are divided by, known without the model."""
        ...

    def loss_weights(self, stage: Any) -> dict[str, float]: ...

    def learns(self, name: str, stage: Any) -> bool:
        """Whether the parameter of this name learns in a stage."""
        ...

    def dataset(self, stage: Any, rank: int, ranks: int) -> Any:
        """The stage's `data.loader.StepDataset`."""
        ...

    def describe(self, stage: Any) -> str:
        """The stage in words, for the log."""
        ...

    def prepare(self, folder: Path) -> None:
        """Write into a new run's folder what cannot be read off its config."""
        ...

    def system(self, card: dict[str, Any]) -> System:
        """The system that draws with the model as it is now; the model is shared, not copied."""
        ...

    def sample(self, path: Path | None) -> None:
        """Draw fixed prompts with the model as it is now and write them as one picture. None: only draw, with
        ranks that share the model."""
        ...

    def validate(self, device: torch.device) -> dict[str, float]:
        """Losses, with the model as it is now, on what is never trained on, at fixed noise; {} where there
        are none."""
        ...


@dataclass(frozen=True)
class Probe:
    """A run's model and one micro-batch of it, as memory estimates need them; made on fake tensors."""

    model: nn.Module
    body: BlockModel
    forward: Callable[[], Tensor]
    """One forward pass of a micro-batch; returns the loss."""
    block_input: int
    """Values that one block's input holds for a micro-batch: all that a recomputed block keeps."""
