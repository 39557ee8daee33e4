"""A detokenizer as a system of its own, for training it through the hinge: features in place of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych.contracts import Prompt, Stack, check_rows
from diptych.data.frames import encoded
from diptych.data.pictures import resize
from diptych.flow import SamplerConfig
from diptych.inference.mute import Mute
from diptych.models.linear_dit import LinearDiT
from diptych.request import RequestError, Task
from diptych.settings import Settings
from diptych.spaces import LatentSpace
from diptych.spaces.detokenizers import LatentDetokenizer, as_words
from diptych.spaces.features import FeatureSpace
from diptych.systems.blip3o import NAME
from diptych.systems.blip3o.condition import BridgedCondition, Row, Told, null
from diptych.systems.blip3o.spaces import save_detokenizer


class DetokenizerSystem(Mute):
    """Draws pictures from the features of pictures. See `contracts.System`; it answers nothing and takes no
    words."""

    family = NAME
    joins_passes = True
    embeds_guidance = False
    text = None

    def __init__(
        self,
        model: LinearDiT,
        space: LatentSpace,
        features: FeatureSpace,
        sampler: SamplerConfig,
        card: dict[str, Any] | None = None,
    ) -> None:
        """`features` has the encoder whose features are drawn from. Raises ValueError for parts that do not
        go together."""
        if model.config.caption_channels != features.channels:
            raise ValueError(
                f"the features have {features.channels} channels, the detokenizer reads "
                f"{model.config.caption_channels}"
            )
        self.model, self.space, self.features, self.sampler = model.eval(), space, features, sampler
        self.native, self.token, self.card = features.native, model.config.patch, card or {}
        # checks the rest
        self.detokenizer()
        self._placed: torch.device | None = None

    def detokenizer(self) -> LatentDetokenizer:
        """What draws with the model as it is now; the model is shared, not copied."""
        made_by = self.features.facts.made_by
        training = self.model.training
        made = LatentDetokenizer(self.model, self.space, self.sampler, self.native, made_by)
        self.model.train(training)
        return made

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    @property
    def settings(self) -> Settings:
        return Settings(
            native=self.native,
            multiple=self.native,
            max_side=self.native,
            tasks=frozenset({Task.REFERENCE_TO_IMAGE}),
            sampler=self.sampler,
        )

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> BridgedCondition:
        """The features of the one frame that each row is given: a target of the feature space from a cache
        (`Given.target`), or pixels that are encoded now. Raises RequestError for rows with none, or
        several."""
        check_rows(len(prompts), stacks=stacks)
        if self._placed != self.device and self.device.type != "meta":
            self.space.to(self.device)
            self.features.to(self.device)
            self._placed = self.device
        rows = []
        for prompt, stack in zip(prompts, stacks, strict=True):
            if len(stack.given) != 1:
                raise RequestError(f"a detokenizer draws from one picture a row, got {len(stack.given)}")
            (given,) = stack.given
            target = given.target
            if target is None:
                target = encoded(self.features, given.pixels[None, None])[0, 0]
            # the decoder is given what the encoder gives, whatever the flow before it runs in
            raw = self.features.raw(target.to(self.device)[None])
            rows.append(Row(prompt, as_words(self.model, raw)[0]))
        return BridgedCondition(
            denoiser=self.model,
            told_rows=tuple(rows),
            reader=self._told,
            size=(stacks[0].width, stacks[0].height),
            scale=torch.ones(len(rows), device=self.device),
        )

    def _told(self, rows: Sequence[Row]) -> Told:
        kept = [row.features for row in rows if not row.dropped and row.features is not None]
        like, channels = self.model.head.weight, self.features.channels
        if not kept:
            return null(None, rows, channels, like)
        states = torch.stack(kept)
        told = Told(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))
        return told if len(kept) == len(rows) else null(told, rows, channels, like)

    def denoise(self, x: Tensor, sigma: Tensor, condition: BridgedCondition) -> Tensor:
        velocity: Tensor = condition.denoiser(
            x.to(self.model.head.weight.dtype), sigma.reshape(len(x)), condition.keys
        )
        return velocity.float()

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        return resize(pixels, self.native, self.native)

    def accelerate(self) -> None:
        """It is made for training, and draws as it is."""

    def parts(self) -> dict[str, nn.Module]:
        return {"denoiser": self.model, **self.features.parts()}

    def save(self, folder: Path) -> None:
        """Write what `spaces.load_detokenizer` reads."""
        save_detokenizer(self.detokenizer(), Path(folder))
