"""Latents and text of an index, computed once: `diptych data cache`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.contracts import ImageSpace, TextEncoder
from diptych.data.captioned.buckets import Bucket, BucketPlan, fit
from diptych.data.captioned.cache import begin_cache, target_key, text_key, write_manifest, write_shards
from diptych.data.captioned.index import Index
from diptych.data.captioned.loader import as_tensor, is_validation
from diptych.data.frames import encoded
from diptych.data.pictures import CONTROLS


def precompute(
    index: Index,
    space: ImageSpace,
    encoder: TextEncoder | None,
    out: Path,
    resolutions: tuple[int, ...],
    multiple: int,
    batch: int,
    validation: float,
    control: str = "",
    part: int = 0,
    parts: int = 1,
    progress: Callable[[int, int], Any] | None = None,
) -> None:
    """Write a cache for runs over `index` at `resolutions` with `batch` pictures a step; with `control`, what
    it names too. Without an encoder, or with one that learns, no text is kept.

    Goes on where a run was stopped. With `parts` above 1, this process does its share; the cache is closed by
    the process that finds all shards written. Raises BadSample for a picture that changed since it was
    indexed, ValueError for a part that is none of `parts`, and for a folder that other encoders have begun.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be a share, got {validation}")
    if not 0 <= part < parts:
        raise ValueError(f"part must be one of 0 to {parts - 1}, as parts is {parts}; got {part}")
    sizes = index.sizes()
    held = [is_validation(row.sha256, validation) for row in index.rows]
    kept, learning = ([n for n, is_held in enumerate(held) if is_held is side] for side in (True, False))
    wanted: dict[str, tuple[int, Bucket]] = {}
    # the plans of training and of validation, so that the cache holds exactly the sizes that a run asks for
    for numbers, together in ((learning, batch), (kept, 1)):
        if numbers:
            plan = BucketPlan(sizes[numbers], resolutions, multiple, together, 0)
            wanted |= {
                target_key(index.rows[n].id, plan.bucket_of[i]): (n, plan.bucket_of[i])
                for i, n in enumerate(numbers)
            }
    identity = None if encoder is None else encoder.identity()
    begin_cache(out, space.identity(), identity)
    captions = (
        {text_key(caption): caption for row in index.rows for caption in row.captions}
        if identity is not None
        else {}
    )
    total, done = len(wanted) * (2 if control else 1) + len(captions), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    def picture(key: str) -> np.ndarray:
        number, bucket = wanted[key]
        return fit(index.picture(number), bucket)

    def encode(pixels: np.ndarray) -> Tensor:
        return encoded(space, as_tensor(pixels)[None, None])[0, 0].cpu()

    def text(key: str) -> Tensor:
        assert encoder is not None
        # one caption at a time, as a run without a cache reads it
        return encoder.encode([captions[key]])[0][0].cpu()

    makers: dict[str, tuple[list[str], Callable[[str], Tensor]]] = {
        # sorted: all processes, and one that goes on, must cut the same shards
        "latents": (sorted(wanted), lambda key: encode(picture(key))),
        "text": (sorted(captions), text),
    }
    if control:
        makers[control] = (sorted(wanted), lambda key: encode(CONTROLS[control](picture(key))))
    with torch.no_grad():
        for kind, (keys, make) in makers.items():
            write_shards(out, kind, keys, make, advance, part, parts)
    wholes = {kind: keys for kind, (keys, _) in makers.items()}
    try:
        # whoever finds all shards there closes the cache; the others find some missing and leave it open
        write_manifest(out, space.identity(), identity, wholes)
    except ValueError:
        if parts == 1:
            raise
