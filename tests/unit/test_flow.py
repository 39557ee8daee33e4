"""Flow matching on a Gaussian, whose velocity is known in closed form."""

import math
from itertools import pairwise

import pytest
import torch
from golden_files import load
from hypothesis import given
from hypothesis import strategies as st

from diptych.flow import (
    DPM,
    Euler,
    FlowConfig,
    NoiseLaw,
    Objective,
    SamplerConfig,
    guided_velocity,
    integrate,
    interpolate,
    levels_of,
    noise_scale,
    passes_needed,
    per_row,
    projected_guidance,
    sigmas,
    solve,
    solver_of,
    to_velocity,
)
from diptych.flow.guidance import renormalise

MEAN, STD = 2.0, 0.5


def gaussian_velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """E[eps - x0 | x_sigma = x] for x0 ~ N(MEAN, STD^2), eps ~ N(0, 1)."""
    keep = 1 - sigma
    variance = keep**2 * STD**2 + sigma**2
    surprise = (x - keep * MEAN) / variance
    return sigma * surprise - (MEAN + keep * STD**2 * surprise)


def euler(velocity, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    return integrate(Euler(SamplerConfig()), velocity, noise, levels.tolist())


def dpm(velocity, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    return integrate(DPM(SamplerConfig()), velocity, noise, levels.tolist())


def test_euler_carries_noise_to_the_data_distribution():
    noise = torch.linspace(-2, 2, 41, dtype=torch.float64)
    drawn = euler(gaussian_velocity, noise, sigmas(2000, 1.0).double())
    # the exact flow of a Gaussian maps eps to MEAN + STD * eps
    torch.testing.assert_close(drawn, MEAN + STD * noise, rtol=0, atol=2e-3)


def test_euler_converges_with_order_one():
    noise = torch.tensor([1.5], dtype=torch.float64)
    errors = [
        abs(float(euler(gaussian_velocity, noise, sigmas(n, 1.0).double()) - (MEAN + STD * noise)))
        for n in (50, 100, 200, 400)
    ]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(0.9 < order < 1.1 for order in orders), orders


def test_path_ends_at_picture_and_noise():
    clean, noise = torch.randn(2, 2, 3, 4, 4), torch.randn(2, 2, 3, 4, 4)
    scale = torch.tensor([3.0, 2.0])
    torch.testing.assert_close(interpolate(clean, noise, torch.zeros(2), scale), clean)
    torch.testing.assert_close(interpolate(clean, noise, torch.ones(2), scale)[0], 3 * noise[0])
    # a level for each frame
    mixed = interpolate(clean, noise, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), scale)
    torch.testing.assert_close(mixed[:, 0], torch.stack([clean[0, 0], 2 * noise[1, 0]]))


@pytest.mark.parametrize("sigma_min", [0.0, 0.01])
def test_velocity_is_the_derivative_of_the_path(sigma_min: float):
    clean, noise = torch.randn(2, 2, 1, 3, 4, 4, dtype=torch.float64)
    sigma, scale = torch.tensor([[0.3, 0.8], [2.0, 0.5]], dtype=torch.float64)
    step = 1e-6
    slope = (
        interpolate(clean, noise, sigma + step, scale) - interpolate(clean, noise, sigma - step, scale)
    ) / (2 * step)
    noisy = interpolate(clean, noise, sigma, scale)
    target = Objective(sigma_min=sigma_min).target(clean, noise, noisy, sigma, scale)
    torch.testing.assert_close(target, slope, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(target, per_row(scale, noise) * noise - clean)


@pytest.mark.parametrize("loss_sigma_min", [None, 0.2])
def test_errors_are_those_of_velocities_that_divide_by_the_limit_of_the_loss(loss_sigma_min):
    clean, noise, predicted = torch.randn(3, 4, 1, 3, 4, 4, dtype=torch.float64)
    sigma = torch.tensor([0.001, 0.1, 0.3, 1.0], dtype=torch.float64)
    scale = torch.full_like(sigma, 2.0)
    noisy = interpolate(clean, noise, sigma, scale)
    velocity = to_velocity(predicted, noisy, sigma, 0.02)
    objective = Objective(sigma_min=0.02, loss_sigma_min=loss_sigma_min)
    limit = loss_sigma_min or 0.02
    expected = (
        to_velocity(predicted, noisy, sigma, limit) - to_velocity(clean, noisy, sigma, limit)
    ).square()
    found = objective.errors(velocity, clean, noise, noisy, sigma, scale)
    torch.testing.assert_close(found, expected.mean((1, 2, 3, 4)))
    right = to_velocity(clean, noisy, sigma, 0.02)
    assert objective.errors(right, clean, noise, noisy, sigma, scale).max() == 0


@pytest.mark.parametrize(
    "bad", [{"sigma_min": 1.0}, {"sigma_min": 0.1, "loss_sigma_min": 0.0}, {"loss_sigma_min": 0.1}]
)
def test_objectives_that_cannot_be_are_refused(bad: dict):
    with pytest.raises(ValueError, match=r"sigma_min"):
        Objective(**bad)


def test_a_law_without_shift_is_logit_normal_whichever_way_it_is_written():
    draw = torch.randn(1000, dtype=torch.float64)
    published = 1.0 - torch.sigmoid(-1.6 + 1.2 * draw)
    torch.testing.assert_close(NoiseLaw(mean=1.6, std=1.2, shift=1.0).sigma(-draw), published)


def test_a_perfect_prediction_draws_the_picture():
    clean, noise = torch.rand(1, 1, 3, 4, 4), torch.randn(1, 1, 3, 4, 4)

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return to_velocity(clean, x, sigma, 0.01)

    torch.testing.assert_close(euler(velocity, noise, sigmas(20, 1.5)), clean, rtol=0, atol=1e-5)


@given(steps=st.integers(1, 200), shift=st.floats(0.2, 10))
def test_sampling_levels_fall_from_one_to_zero(steps: int, shift: float):
    levels = sigmas(steps, shift)
    assert float(levels[0]) == pytest.approx(1, abs=1e-6)
    assert levels[-1] == 0
    assert len(levels) == steps + 1
    assert (levels.diff() < 0).all()


def test_noise_grows_with_resolution_up_to_its_limit():
    config = FlowConfig(noise_scale_max=8.0)
    assert noise_scale(config, 64) == 1.0
    assert noise_scale(config, 4096) == 8.0
    assert noise_scale(config, 4 * 4096) == 8.0


@pytest.mark.parametrize(
    ("guidance", "image_guidance"), [(4.0, 1.0), (3.0, 3.0), (4.0, 1.5), (1.0, 1.0), (1.0, 2.0)]
)
def test_shortcuts_of_guidance_equal_the_general_rule(guidance: float, image_guidance: float):
    c, i, u = torch.randn(3, 1, 1, 3, 2, 2)
    general = u + guidance * (c - i) + image_guidance * (i - u)
    named = {"conditional": c, "picture_only": i, "unconditional": u}
    needed = {kind: named[kind] for kind in passes_needed(guidance, image_guidance, has_pictures=True)}
    torch.testing.assert_close(
        guided_velocity(needed, torch.tensor([guidance]), torch.tensor([image_guidance])),
        general,
        rtol=1e-5,
        atol=1e-5,
    )


def test_guidance_without_pictures_needs_two_passes_at_most():
    assert passes_needed(4.0, 1.0, has_pictures=False) == ("conditional", "unconditional")
    assert passes_needed(1.0, 1.0, has_pictures=False) == ("conditional",)


def test_renormalised_velocity_is_never_longer_than_the_conditional_one():
    conditional, guided = torch.randn(2, 2, 3, 8, 8), 5 * torch.randn(2, 2, 3, 8, 8)
    assert (
        renormalise(guided, conditional, "global", 4).flatten(1).norm(dim=1)
        <= conditional.flatten(1).norm(dim=1) * 1.0001
    ).all()
    short = 0.1 * conditional
    torch.testing.assert_close(renormalise(short, conditional, "channel", 4), short)
    cell = (..., slice(None), slice(4, 8), slice(0, 4))
    limited = renormalise(guided, conditional, "channel", 4)
    assert limited[cell].norm() <= conditional[cell].norm() * 1.0001


def test_each_row_is_guided_by_its_own_scale():
    velocities = {"conditional": torch.randn(3, 1, 3, 2, 2), "unconditional": torch.randn(3, 1, 3, 2, 2)}
    scales = torch.tensor([1.5, 4.0, 7.0])
    together = guided_velocity(velocities, scales, torch.ones(3), "zero_star", first_step=scales == 4.0)
    for row, scale in enumerate(scales):
        alone = {name: v[row : row + 1] for name, v in velocities.items()}
        expected = guided_velocity(alone, scale[None], torch.ones(1), "zero_star")
        assert torch.equal(together[row : row + 1], expected * (scale != 4.0))


@pytest.mark.parametrize(
    "bad", [{"num_steps": 0}, {"shift": 0.0}, {"guidance_norm": "no"}, {"guidance_interval": (0.9, 0.1)}]
)
def test_sampler_config_refuses_nonsense(bad: dict):
    with pytest.raises(ValueError, match=next(iter(bad))):
        SamplerConfig(**bad)


def test_dpm_converges_with_order_two():
    noise = torch.tensor([1.5], dtype=torch.float64)
    # sigma_min > 0: the last step to 0 is of first order by construction, so the order is measured before it
    errors = []
    # halved steps of a method of first order, with what is left of its error taken away
    coarse, fine = (
        euler(gaussian_velocity, noise, torch.linspace(0.98, 0.1, n + 1, dtype=torch.float64))
        for n in (8000, 16_000)
    )
    exact = 2 * fine - coarse
    for n in (40, 80, 160):
        levels = torch.linspace(0.98, 0.1, n + 1, dtype=torch.float64)
        errors.append(abs(float(dpm(gaussian_velocity, noise, levels) - exact)))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(order > 1.6 for order in orders), (orders, errors)


def test_dpm_starts_from_pure_noise():
    drawn = dpm(gaussian_velocity, torch.tensor([1.0], dtype=torch.float64), sigmas(60, 3.0).double())
    assert float(drawn) == pytest.approx(MEAN + STD, abs=0.02)


def test_trigflow_with_a_perfect_model_draws_the_picture_in_one_step_and_in_four():
    clean = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (x - clean) / per_row(sigma, x)

    sampler = SamplerConfig(solver="trigflow")
    for steps in (1, 2, 4):
        drawn = solve(sampler, velocity, noise, steps, lambda: torch.randn_like(noise))
        torch.testing.assert_close(drawn, clean, rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", ["euler", "dpm", "trigflow"])
def test_rows_with_schedules_of_their_own_share_a_batch(solver: str):
    sampler = SamplerConfig(solver=solver, first_sigma=0.999)
    counts, noise = [2, 5, 3], torch.randn(3, 4, dtype=torch.float64)
    fresh = torch.randn(3, 8, 4, dtype=torch.float64)
    together, active, x, drawn, step = solver_of(sampler), [0, 1, 2], noise, {}, 0
    points = [together.points(count) for count in counts]

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return gaussian_velocity(x, sigma[:, None])

    while active:
        now, then = torch.tensor([points[row][step : step + 2] for row in active], dtype=torch.float64).T
        given = [*active]
        at = step
        x = together.step(
            velocity,
            x,
            now,
            then,
            lambda rows: fresh[[given[r] for r in rows], at],  # noqa: B023
        )
        step += 1
        drawn |= {row: x[i] for i, row in enumerate(active) if counts[row] == step}
        going = [i for i, row in enumerate(active) if counts[row] > step]
        together.rows(going)
        x, active = x[going], [active[i] for i in going]
    for row, count in enumerate(counts):
        more = iter(fresh[row])
        alone = solve(sampler, velocity, noise[row : row + 1], count, lambda: next(more)[None])  # noqa: B023
        torch.testing.assert_close(drawn[row], alone[0], rtol=1e-9, atol=1e-9)


def test_projected_guidance_moves_across_the_prediction_and_no_further_than_its_limit():
    x, conditional, base = torch.randn(3, 2, 1, 4, 6, 6, dtype=torch.float64)
    sigma, five = torch.full((2,), 0.6, dtype=torch.float64), torch.full((2,), 5.0)
    start = torch.zeros_like(x)
    guided, average = projected_guidance(x, sigma, conditional, base, five, start, limit=1.0)
    moved = -0.6 * (guided - conditional)
    clean = x - 0.6 * conditional
    torch.testing.assert_close(
        (moved * clean).sum((1, 2, 3, 4)), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9
    )
    assert bool((moved.flatten(1).norm(dim=1) <= 4.0 + 1e-9).all())
    assert torch.equal(average, sigma[0] * (base - conditional))
    plain, _ = projected_guidance(x, sigma, conditional, base, torch.ones(2), start)
    torch.testing.assert_close(plain, conditional)


def mixture_velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """E[eps - x0 | x_sigma = x] for the mixture of two Gaussians in the plane that the golden set `flow` is
    about."""
    weights, means, deviations = (
        torch.tensor(v, dtype=x.dtype) for v in ((0.4, 0.6), ((1.5, -0.5), (-1.0, 1.0)), (0.3, 0.5))
    )
    sigma = sigma[:, None]
    keep = 1 - sigma
    variance = keep**2 * deviations**2 + sigma**2
    offset = x[:, None] - keep[..., None] * means
    share = (weights.log() - variance.log() - offset.square().sum(-1) / (2 * variance)).softmax(-1)
    velocity = -means + ((sigma - keep * deviations**2) / variance)[..., None] * offset
    return (share[..., None] * velocity).sum(1)


@pytest.mark.parametrize(
    ("name", "solver", "steps", "limit"),
    [
        ("reference_dpm", "dpm", 20, 3e-5),
        ("diffusers_dpm", "dpm", 20, 3e-6),
        ("reference_euler", "euler", 28, 3e-6),
    ],
)
@pytest.mark.parametrize("whole_time", [False, True])
def test_trajectories_are_the_published_ones(name, solver, steps, limit, whole_time):
    expected = load("flow/sampling")
    name += "_whole_time" if whole_time else ""
    schedule = {"dpm": {"first_sigma": 0.999}, "euler": {"schedule": "diffusers_euler"}}[solver]
    sampler = SamplerConfig(solver=solver, shift=3.0, **schedule)
    levels = levels_of(sampler, steps).float()
    torch.testing.assert_close(levels, expected[f"{name}.sigmas"], rtol=0, atol=3e-7)
    states = [expected["noise"]]

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        whole = (sigma.double() * 1000 + 1e-3).floor().div(1000).to(sigma)
        return mixture_velocity(x, (whole if whole_time else sigma).to(x.dtype))

    solve(sampler, velocity, expected["noise"], steps, on_step=lambda _, x: states.append(x))
    torch.testing.assert_close(torch.stack(states), expected[f"{name}.states"], rtol=0, atol=limit)
