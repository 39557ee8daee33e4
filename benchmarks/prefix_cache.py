"""What the prefix cache saves: a guided picture with prefixes read once against the same picture with
prefixes read at every step.

Alternating runs in one process, warm-up left out. Run: python benchmarks/prefix_cache.py
"""

from __future__ import annotations

import statistics
import time

import torch

import diptych
from diptych.contracts import Prompt
from diptych.flow import noise_scale, solve
from diptych.inference import Pipeline, stack_of
from diptych.inference.guidance import Guidance
from diptych.request import Plan

ROUNDS = 9
PROMPT = "a picture of two cats to the left of a red heart on a sky blue background"


def draw(pipeline: Pipeline, plan: Plan, cached: bool) -> torch.Tensor:
    """A picture as target of the flow, (1, 1, 3, height, width)."""
    system, stack = pipeline.system, stack_of(plan, [])

    def read() -> Guidance:
        condition = system.read([Prompt(plan.prompt)], [stack])
        return Guidance(system, condition, [plan.guidance_scale or 1.0], [1.0], has_given=False)

    once = read()
    shape = system.space.shape(stack.width, stack.height)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(plan.seed))
    x = x * noise_scale(system.flow, stack.width * stack.height // system.token**2)

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (once if cached else read())(x, sigma)

    with torch.inference_mode():
        return solve(system.sampler, velocity, x, plan.steps or 30)


def main() -> None:
    pipeline = diptych.load()
    plan = pipeline.plan(PROMPT, steps=30, seed=0)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    pictures = {cached: draw(pipeline, plan, cached) for cached in (True, False)}
    torch.testing.assert_close(pictures[True], pictures[False], rtol=0, atol=1e-5)
    for _ in range(ROUNDS):
        for cached in (True, False):
            began = time.perf_counter()
            draw(pipeline, plan, cached)
            seconds[cached].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    print(
        f"cached {statistics.median(seconds[True]):.3f} s, not cached "
        f"{statistics.median(seconds[False]):.3f} s"
    )
    print(
        f"ratio {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f}), {ROUNDS} "
        f"pairs, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
