"""Latents and text of an index, computed once: `diptych data cache`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.buckets import Bucket, BucketPlan, fit
from diptych.data.cache import latent_key, text_key, write_manifest, write_shards
from diptych.data.index import Index
from diptych.data.picture_loader import as_tensor, is_validation
from diptych.spaces import LatentSpace
from diptych.systems.text import LEARNED, GemmaEncoder


def precompute(
    index: Index, space: LatentSpace, encoder: GemmaEncoder | None, out: Path, resolutions: tuple[int, ...], multiple: int, batch: int,
    validation: float, part: int = 0, parts: int = 1, progress: Callable[[int, int], Any] | None = None,
) -> None:  # fmt: skip
    """Write a cache for runs over `index` at `resolutions` with `batch` pictures a step.

    Goes on where a run was stopped. With `parts` above 1, this process does its share; the cache is closed by the process that
    finds all shards written. Raises BadSample for a picture that changed since it was indexed.
    """
    sizes = index.sizes()
    kept = [n for n, row in enumerate(index.rows) if is_validation(row.sha256, validation)]
    learning = [n for n in range(len(index)) if n not in set(kept)]
    wanted: dict[str, tuple[int, Bucket]] = {}
    # the plans of training and of validation, so that the cache holds exactly the sizes that a run asks for
    for numbers, together in ((learning, batch), (kept, 1)):
        if numbers:
            plan = BucketPlan(sizes[numbers], resolutions, multiple, together, 0)
            wanted |= {latent_key(index.rows[n].id, plan.bucket_of[i]): (n, plan.bucket_of[i]) for i, n in enumerate(numbers)}
    captions = {text_key(caption): caption for row in index.rows for caption in row.captions} if encoder is not None else {}
    total, done = len(wanted) + len(captions), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    def latents(key: str) -> Tensor:
        number, bucket = wanted[key]
        return space.encode(as_tensor(fit(index.picture(number), bucket)))[0].cpu()

    def text(key: str) -> Tensor:
        assert encoder is not None
        return encoder.encode([captions[key]])[0][0].cpu()

    keys = {"latents": sorted(wanted), "text": sorted(captions)}
    with torch.no_grad():
        write_shards(out, "latents", keys["latents"], latents, advance, part, parts)
        write_shards(out, "text", keys["text"], text, advance, part, parts)
    try:
        write_manifest(out, space.identity(), encoder.identity() if encoder is not None else LEARNED, keys)
    except ValueError:
        if parts == 1:
            raise
