"""BLIP3-o as a system: a language model, a bridge, a denoiser over features or latents (arXiv 2505.09568)."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych.contracts import AnswerLimits, Prompt, Stack, check_rows
from diptych.data.frames import target_of
from diptych.data.pictures import resize
from diptych.encoders.backbone import Asked, Reader, Speaker
from diptych.encoders.vlm import VisionLanguage
from diptych.files import weights as weight_files
from diptych.files.folder import DEFAULT, HUB
from diptych.files.whole import becomes
from diptych.flow import SamplerConfig, solve
from diptych.models.connector import Bridge, Reference, ReferenceConfig
from diptych.models.feature_dit import FeatureDiT
from diptych.models.linear_dit import LinearDiT
from diptych.request import Message, RequestError, Role
from diptych.settings import Settings
from diptych.spaces import LatentSpace
from diptych.spaces.detokenizers import UnetDetokenizer
from diptych.spaces.features import FeatureSpace
from diptych.surgery import prepare
from diptych.systems.blip3o import NAME
from diptych.systems.blip3o.condition import BridgedCondition, Row, Told, joined, null
from diptych.systems.blip3o.settings import (
    BACKBONE,
    SPACE,
    FolderConfig,
    NamedBackbone,
    denoiser_fields,
    language_settings,
    settings_of,
)
from diptych.systems.blip3o.spaces import save_any

Denoiser = FeatureDiT | LinearDiT
Space = FeatureSpace | LatentSpace
EMPTY = " "
"""What is drawn for the negative features of published decoders: a blank, without a template."""


class PromptStates:
    """A bridge that nothing learns, as a `contracts.TextEncoder` whose states a cache may hold."""

    def __init__(self, system: BlipSystem) -> None:
        self.system, self.channels = system, system.bridge.outputs

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], instruct: bool = True) -> tuple[Tensor, Tensor]:
        """States and mask, each prompt read alone: a batch rounds otherwise, and caches hold states to the
        bit."""
        return joined([self.system._bridged([self.system._asked(prompt)]) for prompt in prompts])

    def identity(self) -> str:
        told = f"{self.system.backbone.identity()} {self.system.bridge.config!r}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]


class BlipSystem:
    """Answers with a language model, and draws with what hangs on it."""

    family = NAME
    joins_passes = True
    embeds_guidance = False

    def __init__(
        self,
        model: Denoiser,
        bridge: Bridge,
        backbone: Reader,
        space: Space,
        sampler: SamplerConfig,
        native: int,
        card: dict[str, Any] | None = None,
        named: NamedBackbone | None = None,
        reference: Reference | None = None,
    ) -> None:
        """`named` says where the backbone is found, for a folder that holds no copy of it; None: it is saved
        with the rest. `reference` shows the denoiser a picture that is to be changed. Raises ValueError for
        parts that do not go together."""
        if bridge.config.inputs != backbone.channels:
            raise ValueError(
                f"the language model has {backbone.channels} channels, the bridge reads "
                f"{bridge.config.inputs}"
            )
        if model.config.caption_channels != bridge.outputs:
            raise ValueError(
                f"the bridge gives {bridge.outputs} channels, the denoiser reads "
                f"{model.config.caption_channels}"
            )
        if model.config.channels != space.channels:
            raise ValueError(
                f"the image space has {space.channels} channels, the denoiser draws {model.config.channels}"
            )
        if reference is not None:
            wanted = ReferenceConfig(
                channels=space.channels, patch=model.config.patch, outputs=bridge.outputs
            )
            if reference.config != wanted:
                raise ValueError(
                    f"what brings a given picture to the denoiser is {reference.config}, and {wanted} is "
                    "needed"
                )
        if bridge.queries is not None and bridge.config.queries >= backbone.context:
            raise ValueError(
                f"the bridge has {bridge.config.queries} queries, and the language model's context holds "
                f"{backbone.context} tokens"
            )
        self.model, self.bridge, self.backbone = model.eval(), bridge.eval(), backbone
        self.reference = None if reference is None else reference.eval()
        self.space, self.sampler, self.native = space, sampler, native
        self.card, self.named, self.token = card or {}, named, model.config.patch
        self.text = PromptStates(self) if bridge.cacheable else None
        self.home: Path | None = None
        """Folder that the backbone's name is seen from; None: the one that the system is saved into."""
        self._fast: Denoiser | None = None
        # a run makes its system before the model has a place
        self._placed: torch.device | None = None
        self._empty: Tensor | None = None
        if isinstance(space, FeatureSpace) and isinstance(space.detokenizer, UnetDetokenizer):
            space.detokenizer.negative = self._nothing

    @property
    def speaker(self) -> Speaker:
        return self.backbone.speaker

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    @property
    def settings(self) -> Settings:
        speaks = getattr(self.speaker, "settings", None) or language_settings(
            getattr(self.speaker, "sees", False)
        )
        multiple = self.space.factor * self.token
        return settings_of(self.native, multiple, self.sampler, speaks, self.reference is not None)

    def accelerate(self) -> None:
        """Draw with a copy of the denoiser made for speed (`surgery.prepare`)."""
        self._fast = prepare(self.model)

    def parts(self) -> dict[str, nn.Module]:
        space = self.space.parts() if isinstance(self.space, FeatureSpace) else {}
        seen = {} if self.reference is None else {"reference": self.reference}
        own = {"denoiser": self.model, "bridge": self.bridge, **seen}
        return {**own, "language model": self.backbone.model, **space}

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> BridgedCondition:
        """Prompts through language model and bridge, once; see `contracts.System`.

        Differentiable in the bridge, and in the language model where that learns. States of a bridge without
        parameters over a frozen model are read one prompt at a time, so that they are the same to the bit
        from a cache (`Prompt.states`). What stands for no text is zeros in place of the states, as published.
        A picture that is to be changed stands behind them, as the image space encodes it.

        Raises RequestError for frames that the model does not take, clips and prompts longer than the
        language model reads, ValueError for rows of different sizes.
        """
        check_rows(len(prompts), stacks=stacks)
        first = stacks[0]
        for stack in stacks:
            if (stack.width, stack.height) != (first.width, first.height):
                raise ValueError(
                    f"all rows of a batch draw one size, got {first.width}x{first.height} and "
                    f"{stack.width}x{stack.height} px"
                )
            self._check_given(stack)
        for prompt in prompts:
            if prompt.states is None:
                self._asked(prompt.text)
        self._follow(self.device)
        seen = [target_of(self.space, stack.given[0], stack) if stack.given else None for stack in stacks]
        return BridgedCondition(
            denoiser=self._drawing,
            told_rows=tuple(Row(*row) for row in zip(prompts, (None,) * len(prompts), seen, strict=True)),
            reader=self._told,
            size=(first.width, first.height),
            scale=torch.ones(len(prompts), device=self.device),
        )

    def _check_given(self, stack: Stack) -> None:
        if len(stack.times) != 1 or (stack.given and self.reference is None):
            raise RequestError("this model draws single pictures from text alone")
        if any(given.role is not Role.SOURCE for given in stack.given) or len(stack.given) > 1:
            roles = ", ".join(given.role.value for given in stack.given)
            raise RequestError(f"this model changes one picture at a time, a source; it was given: {roles}")

    @property
    def _drawing(self) -> Denoiser:
        # the fast copy is for drawing alone: packed matrices would not follow weights that learn
        return self.model if self._fast is None else self._fast

    def _asked(self, text: str) -> Asked:
        """Raises RequestError for more than the language model reads, queries included."""
        asked = self.backbone.asked(text)
        queries = 0 if self.bridge.queries is None else self.bridge.config.queries
        if (length := len(asked.ids) + queries) > self.backbone.context:
            raise RequestError(
                f"the request has {length:,} tokens, {queries} queries included, more than the "
                f"{self.backbone.context:,} that this model reads"
            )
        return asked

    def _told(self, rows: Sequence[Row]) -> Told:
        """States of rows, and behind them the vectors of the pictures that rows are given."""
        told, reference = self._words(rows), self.reference
        if reference is None:
            return told
        like = reference.widen.weight
        given = [row.seen for row in rows if row.seen is not None]
        # where no row is given one, what learns is still a part of the pass: its gradient is zero
        if not given and not (torch.is_grad_enabled() and like.requires_grad):
            return told
        empty = like.new_zeros(given[0].shape if given else self.space.shape(self.native, self.native)[1:])
        targets = [empty if row.seen is None else row.seen.to(like) for row in rows]
        vectors = reference(torch.stack(targets))
        shown = [row.seen is not None and not row.blind for row in rows]
        mask = torch.tensor(shown, device=vectors.device)[:, None].expand(vectors.shape[:2])
        words = told.mask.to(vectors.device).clone()
        # zeros are no longer all that is seen: one of them, however long the other rows are
        gone = [row.dropped and not row.prompt.negative for row in rows]
        words[torch.tensor(gone, device=words.device), 1:] = False
        return Told(torch.cat([told.states.to(vectors), vectors], 1), torch.cat([words, mask], 1))

    def _words(self, rows: Sequence[Row]) -> Told:
        """States of rows, zeros for those that are dropped without a negative prompt."""
        rows = [
            Row(Prompt(row.prompt.negative)) if row.dropped and row.prompt.negative else row for row in rows
        ]
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self._learning())
        # where something learns all rows are read, so that every part has a gradient whatever is dropped
        kept = [row for row in rows if learns or not row.dropped]
        if not kept:
            return null(None, rows, self.bridge.outputs, self.model.head.weight)
        if self.bridge.cacheable and not learns:
            found = joined([self._state(row.prompt) for row in kept])
        else:
            found = self._bridged([self._asked(row.prompt.text) for row in kept])
        if len(kept) < len(rows):
            return null(found, rows, self.bridge.outputs, self.model.head.weight)
        gone = torch.tensor([row.dropped for row in rows], device=found.mask.device)[:, None]
        return Told(found.states * (~gone)[..., None].to(found.states), found.mask | gone)

    def _state(self, prompt: Prompt) -> Told:
        if prompt.states is not None:
            states = prompt.states[None].to(self.device)
            return Told(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))
        with torch.no_grad():
            return self._bridged([self._asked(prompt.text)])

    def _learning(self) -> Iterator[nn.Parameter]:
        yield from self.bridge.parameters()
        yield from self.backbone.model.parameters()

    def _bridged(self, rows: Sequence[Asked]) -> Told:
        """States of requests, padded on the right."""
        length = max(len(row.ids) for row in rows)
        # where the language model lies: a run reads prompts for its cache before the denoiser has a place
        device = next(self.backbone.model.parameters()).device
        ids = torch.zeros(len(rows), length, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for at, row in enumerate(rows):
            ids[at, : len(row.ids)] = torch.tensor(row.ids, device=device)
            mask[at, : len(row.ids)] = True
        embeddings = None
        if any(row.inputs for row in rows):
            parts = [self.backbone.embedded(row) for row in rows]
            embeddings = torch.stack([nn.functional.pad(p, (0, 0, 0, length - len(p))) for p in parts])
        return Told(*self.bridge(self.backbone, ids, mask, self.backbone.mark, embeddings))

    def denoise(self, x: Tensor, sigma: Tensor, condition: BridgedCondition) -> Tensor:
        """Velocity (B, 1, C, H, W), float32, of noisy targets x of that shape at noise levels (B,) or (B,
        1); see `contracts.System`."""
        levels = sigma.reshape(len(x))
        stored = x.to(self.model.head.weight.dtype)
        velocity: Tensor = condition.denoiser(stored, levels, condition.keys)
        return velocity.float()

    @torch.no_grad()
    def _nothing(self) -> Tensor:
        """Features (1, C, S, S), raw, of a drawing of nothing: what a published decoder is guided away
        from."""
        assert isinstance(self.space, FeatureSpace)
        if self._empty is None:
            closing = () if self.backbone.mark is None else (self.backbone.mark,)
            ids = (*self.backbone.tokens(EMPTY), *closing)
            told = self._bridged([Asked(ids)])
            denoiser = self._drawing
            condition, without = (
                denoiser.condition(states, None) for states in (told.states, torch.zeros_like(told.states))
            )
            scale = self.sampler.guidance_scale

            def velocity(x: Tensor, sigma: Tensor) -> Tensor:
                found, base = (denoiser(x, sigma.to(x.device), keys) for keys in (condition, without))
                return base + scale * (found - base)

            # one noise for all pictures of this model: the published pipeline keeps one a process
            shape = (1, *self.space.shape(self.native, self.native))
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            drawn = solve(self.sampler, velocity, noise.to(self.model.head.weight), self.sampler.num_steps)
            self._empty = self.space.raw(drawn[:, 0].float())
        return self._empty

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """A picture at a size that the image space can hold."""
        height, width = pixels.shape[:2]
        return resize(pixels, *self.settings.read_size(width, height))

    def answer(self, messages: Sequence[Message], limits: AnswerLimits = AnswerLimits()) -> Iterator[str]:
        """The language model's own answer."""
        return self.speaker.answer(messages, limits)

    def answers(
        self, conversations: Sequence[Sequence[Message]], limits: AnswerLimits = AnswerLimits()
    ) -> list[str]:
        return self.speaker.answers(conversations, limits)

    def log_odds(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        return self.speaker.log_odds(conversations)

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a whole model folder: denoiser, bridge, image space, settings and card, and the language
        model unless it is found elsewhere; weights in `dtype` or their own."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {f"denoiser.{name}": tensor for name, tensor in self.model.state_dict().items()}
        weights |= {f"bridge.{name}": tensor for name, tensor in self.bridge.state_dict().items()}
        if self.reference is not None:
            weights |= {f"reference.{name}": tensor for name, tensor in self.reference.state_dict().items()}
        if self.named is None:
            self.backbone.save(folder / BACKBONE)
        config = FolderConfig(
            family=NAME,
            native=self.native,
            denoiser=denoiser_fields(self.model.config),
            bridge=self.bridge.config,
            reference=None if self.reference is None else self.reference.config,
            backbone=self._held() if self.named is None else self._seen_from(folder, self.named),
            sampler=self.sampler,
        )
        save_any(self.space, folder / SPACE)
        weight_files.write(folder, dataclasses.asdict(config), weights, self.card, dtype)

    def _seen_from(self, folder: Path, named: NamedBackbone) -> NamedBackbone:
        """The backbone that is found elsewhere, as named in a folder."""
        if self.home is None or named.model == DEFAULT or named.model.startswith(HUB):
            return named
        path = os.path.relpath((self.home / named.model).resolve(), becomes(folder).resolve())
        return dataclasses.replace(named, model=path)

    def _held(self) -> NamedBackbone:
        """What is said of a backbone that the folder holds."""
        return NamedBackbone(
            ours=not isinstance(self.backbone, VisionLanguage),
            request=self.backbone.request,
            mark=self.backbone.mark,
        )

    def _follow(self, device: torch.device) -> None:
        """Bring the frozen parts to where a run has placed the denoiser."""
        if self._placed == device or device.type == "meta":
            return
        self.backbone.model.to(device)
        self.space.to(device)
        self._placed = device

    def to(self, device: torch.device | str) -> BlipSystem:
        self.model.to(device)
        self.bridge.to(device)
        if self.reference is not None:
            self.reference.to(device)
        self._follow(self.device)
        return self
