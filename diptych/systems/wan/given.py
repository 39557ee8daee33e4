"""What a request gives, as the frames and masks that VACE codes (arXiv 2503.07598): gray where nothing is
given, a mask that is 1 where something is to be drawn, references on white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diptych.contracts import Given, Stack
from diptych.data.captioned.buckets import Bucket, fit
from diptych.request import RequestError, Role
from diptych.spaces.causal import CausalSpace, to_floats


@dataclass(frozen=True, eq=False)
class Frames:
    """Of one row, -1..1."""

    video: Tensor
    """(3, F, height, width); 0 is gray."""
    mask: Tensor
    """(F, height, width): 1 where it is drawn anew, 0 where the video stays."""
    references: tuple[Tensor, ...]
    """(3, height, width) each."""


def frames_of(stack: Stack, factor: int) -> Frames:
    """`factor`: px of a side to one latent. Raises RequestError for a source without a mask, a mask without
    any white, and for roles that do not go together."""
    count, size = len(stack.times), (stack.height, stack.width)
    video, mask = torch.zeros(3, count, *size), torch.ones(count, *size)
    of = {role: [one for one in stack.given if one.role is role] for role in {g.role for g in stack.given}}
    leading = {Role.SOURCE, Role.CONTROL, Role.FIRST} & set(of)
    if len(leading) > 1 or (Role.LAST in of and leading - {Role.FIRST}):
        raise RequestError(f"this model draws from {' or '.join(sorted(leading))}, and not from both")
    if known := set(of) - {Role.SOURCE, Role.MASK, Role.CONTROL, Role.FIRST, Role.LAST, Role.REFERENCE}:
        raise RequestError(f"this model has no frames of the role {min(known).value!r}")
    if Role.SOURCE in of:
        if Role.MASK not in of:
            raise RequestError(
                "this model changes a source within a mask: attach one, white where it may change"
            )
        mask = (_spread(of[Role.MASK], stack).mean(0) > 0).float()
        if not bool(mask.any()):
            raise RequestError("the mask is black all over: it is white where the source may change")
        # what is drawn anew is shown as gray: it must not be told what stood there
        video = _spread(of[Role.SOURCE], stack) * (1 - mask)
    elif Role.CONTROL in of:
        video = _spread(of[Role.CONTROL], stack)
    for role in (Role.FIRST, Role.LAST):
        for one in of.get(role, ()):
            video[:, one.time], mask[one.time] = _fitted(one, stack), 0.0
    return Frames(video, mask, tuple(_on_white(one, stack, factor) for one in of.get(Role.REFERENCE, ())))


def _spread(given: Sequence[Given], stack: Stack) -> Tensor:
    """(3, F, height, width): the frames of a clip spread over those that are drawn; a picture stands
    still."""
    places = np.linspace(0, len(given) - 1, len(stack.times)).round().astype(int)
    frames = {place: _fitted(given[place], stack) for place in set(places.tolist())}
    return torch.stack([frames[place] for place in places.tolist()], 1)


def _fitted(one: Given, stack: Stack) -> Tensor:
    pixels = one.pixels.permute(1, 2, 0).cpu().numpy()
    if pixels.shape[:2] != (stack.height, stack.width):
        pixels = fit(pixels, Bucket(stack.width, stack.height))
    return to_floats(torch.from_numpy(np.array(pixels)).permute(2, 0, 1))


def _on_white(one: Given, stack: Stack, factor: int) -> Tensor:
    """The whole picture, as large as it may be, in the middle."""
    image = Image.fromarray(one.pixels.permute(1, 2, 0).cpu().numpy())
    # as diffusers reads references: at sides that are multiples first
    width, height = (max(factor, side - side % factor) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = to_floats(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    scale = min(stack.height / height, stack.width / width)
    size = max(1, int(height * scale)), max(1, int(width * scale))
    small = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
    top, left = (stack.height - size[0]) // 2, (stack.width - size[1]) // 2
    white = torch.ones(3, stack.height, stack.width)
    white[:, top : top + size[0], left : left + size[1]] = small
    return white


@torch.no_grad()
def coded(space: CausalSpace, frames: Frames, device: torch.device) -> Tensor:
    """The control input (channels, references + f, H, W): latents of what stays and of what is drawn over,
    and the mask, its pixels of a latent as channels."""
    video, mask = frames.video.to(device)[None], frames.mask.to(device)
    kept, over = (space.latents(video * part)[0] for part in (1 - mask, mask))
    control = torch.cat([kept, over, _mask_channels(mask, kept.shape[1], space.factor)])
    for reference in frames.references:
        latents = space.latents(reference.to(device)[None, :, None])[0]
        rest = control.new_zeros(len(control) - len(latents), *latents.shape[1:])
        # each further reference stands before those that are there, as published
        control = torch.cat([torch.cat([latents, rest]), control], 1)
    return control


def _mask_channels(mask: Tensor, frames: int, factor: int) -> Tensor:
    """(F, height, width) -> (factor * factor, frames, H, W)."""
    count, height, width = mask.shape
    cells = mask.view(count, height // factor, factor, width // factor, factor).permute(2, 4, 0, 1, 3)
    size = (frames, height // factor, width // factor)
    return F.interpolate(cells.flatten(0, 1)[None], size=size, mode="nearest-exact")[0]
