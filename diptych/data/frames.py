"""A batch of stacks of frames: what drawing tasks train on, for every system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.contracts import Given, ImageSpace, Prompt, Stack
from diptych.data.captioned.buckets import Bucket, fit


@dataclass(frozen=True, eq=False)
class FrameBatch:
    """B rows of F frames to be drawn, all of one size, each with its words and its given frames."""

    prompts: tuple[Prompt, ...]
    stacks: tuple[Stack, ...]
    pixels: Tensor
    """uint8 (B, F, 3, height, width): what is to be drawn; empty where `target` came from a cache."""
    target: Tensor
    """(B, F, C, H, W), as the image space encodes `pixels`; empty without a cache."""
    noise: Tensor
    """Standard normal (B, F, C, H, W), float32."""
    level: Tensor
    """(B,): the standard normal draw behind each row's noise level."""
    drop_text: Tensor
    """bool (B,): rows that are shown without their text (guidance)."""
    drop_media: Tensor
    """bool (B,): rows that are shown without their given frames."""
    weight: Tensor
    """(B,): share of a row in the loss; 0 for a blank that stands where a sample could not be read, so that
    all ranks compute alike."""

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: torch.device) -> FrameBatch:
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        prompts = tuple(
            p if p.states is None else replace(p, states=p.states.to(device, non_blocking=True))
            for p in self.prompts
        )
        stacks = tuple(replace(s, given=tuple(_moved(g, device) for g in s.given)) for s in self.stacks)
        return replace(self, prompts=prompts, stacks=stacks, **moved)


def collate(parts: Sequence[FrameBatch]) -> FrameBatch:
    """Batches of one size and number of frames into one, in order."""
    tensors: dict[str, Any] = {
        # empty tensors too: a batch has either all of its pixels or all of its targets
        f.name: torch.cat([getattr(part, f.name) for part in parts])
        for f in fields(FrameBatch)
        if f.name not in ("prompts", "stacks")
    }
    return FrameBatch(
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        stacks=tuple(stack for part in parts for stack in part.stacks),
        **tensors,
    )


def _moved(given: Given, device: torch.device) -> Given:
    target = None if given.target is None else given.target.to(device, non_blocking=True)
    return replace(given, pixels=given.pixels.to(device, non_blocking=True), target=target)


def target_of(space: ImageSpace, given: Given, stack: Stack) -> Tensor:
    """(C, H, W) of a given frame, brought to the stack's size: from a cache, or encoded now."""
    if given.target is not None:
        return given.target
    pixels = given.pixels
    if pixels.shape[1:] != (stack.height, stack.width):
        fitted = fit(pixels.permute(1, 2, 0).cpu().numpy(), Bucket(stack.width, stack.height))
        pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
    return encoded(space, pixels[None, None])[0, 0]


@torch.no_grad()
def encoded(space: ImageSpace, pixels: Tensor) -> Tensor:
    """Targets (B, F, C, H, W) of uint8 (B, F, 3, height, width), without gradients.

    One row at a time, in the space's own precision and in plain memory order: computed so, a target is the
    same to the bit wherever it is computed, and a run gives the same with a cache and without. (Kernels that
    read it choose their order of summation by its strides.)
    """
    # training calls this inside its autocast, the caching command does not
    with torch.autocast(pixels.device.type, enabled=False):
        return torch.cat([space.encode(row[None].contiguous()) for row in pixels]).contiguous()
