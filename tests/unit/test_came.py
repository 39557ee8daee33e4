"""CAME against the public implementation, its 8-bit states, and its step over ranks."""

import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from golden_files import load, load_json
from safetensors.torch import load_file
from torch import nn

from diptych.optim import CAME, batches, eight_bit
from diptych.optim.batches import TOGETHER, Kind, round_randomly

NAMES = ("matrix", "vector", "conv1x1", "depthwise3x3")
SHAPES = ((192, 256), (40, 24), (64,), (300, 256, 1, 1), (30, 1, 3, 3), (7, 5), (64,), (40, 24), (1, 40))


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [
        torch.randn(shape, generator=generator) * 10.0 ** ((step + n) % 3 - 1)
        for n, shape in enumerate(SHAPES)
    ]


def take_steps(optimiser: CAME, parameters: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(parameters, gradients(step), strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        optimiser.step()


@pytest.fixture(params=["compiled", "torch"])
def loops(request, monkeypatch):
    """A step on a CPU in compiled loops, and in torch's operations as on a GPU."""
    if request.param == "torch":
        monkeypatch.setattr(Kind, "compiled", False)
    return request.param


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("case", ["plain", "decay", "clip"])
def test_ten_steps_equal_the_public_implementation(case, bits, loops):
    start, expected = load("came/inputs"), load(f"came/{case}")
    settings = load_json("came/index")["settings"]["cases"][case]
    # none is large enough to be kept in 8 bits, so that one must equal the other
    weights = {name: nn.Parameter(start[f"{name}.start"].clone()) for name in NAMES}
    optimiser = CAME(weights.values(), lr=1e-3, bits=bits, **settings)
    for step in range(10):
        for name, weight in weights.items():
            weight.grad = start[f"{name}.gradients"][step].clone()
        optimiser.step()
        for name, weight in weights.items():
            assert (weight.detach() - expected[f"{name}.parameters"][step]).abs().max() <= 2e-6
    for name, weight in weights.items():
        for entry, value in optimiser.state[weight].items():
            wanted = expected[f"{name}.state.{entry}"]
            assert (value - wanted).abs().max() <= 2e-6 * wanted.abs().max()


def assert_equal_steps(one, other, bits):
    for a, b in zip(one, other, strict=True):
        # a sum in another order may round a code the other way
        assert ((a - b).abs() > 2e-6).float().mean() <= (0 if bits == 32 else 1e-3)
        assert (a - b).norm() <= 1e-5 * a.norm()


@pytest.mark.parametrize("bits", [32, 8])
def test_parameters_together_step_as_each_alone(bits, monkeypatch):
    monkeypatch.setattr(Kind, "compiled", False)
    together, alone = parameters(), parameters()
    one, many = (
        CAME(together, bits=bits, weight_decay=0.1),
        [CAME([p], bits=bits, weight_decay=0.1) for p in alone],
    )
    take_steps(one, together, range(6))
    # in pieces of few rows, as large matrices are
    monkeypatch.setitem(TOGETHER, "cpu", 4096)
    for step in range(6):
        for parameter, gradient, optimiser in zip(alone, gradients(step), many, strict=True):
            parameter.grad = gradient
            optimiser.step()
    assert_equal_steps(together, alone, bits)


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_loops_step_as_torchs_operations(bits, threads, monkeypatch):
    # more rows than are summed at once, blocks across rows, a last block that is not full
    shapes = [*SHAPES, (3000, 37), (37, 3000), (2100, 300)]
    steps = [[torch.randn(shape) * 10.0 ** (step % 3 - 1) for shape in shapes] for step in range(5)]
    found, before = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    for compiled in (True, False):
        monkeypatch.setattr(Kind, "compiled", property(lambda kind: kind.factored) if compiled else False)
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        optimiser = CAME(weights, lr=1e-3, bits=bits, weight_decay=0.1)
        for gradients_ in steps:
            for weight, gradient in zip(weights, gradients_, strict=True):
                weight.grad = gradient
            optimiser.step()
        found.append((weights, [optimiser.export_state(weight) for weight in weights]))
    torch.set_num_threads(before)
    assert_equal_steps(found[0][0], found[1][0], bits)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        for name, value in one.items():
            assert (value - other[name]).norm() <= (1e-6 if bits == 32 else 1e-3) * other[name].norm()


def test_compiled_loops_give_the_same_bits_on_any_number_of_threads():
    found, before = [], torch.get_num_threads()
    for threads in (1, 4):
        torch.set_num_threads(threads)
        weights = parameters()
        take_steps(CAME(weights, lr=1e-3, bits=8), weights, range(5))
        found.append(weights)
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("bits", [32, 8])
def test_a_resumed_optimiser_steps_as_the_straight_one_to_the_bit(bits):
    straight, stopped = parameters(), parameters()
    one, first = CAME(straight, lr=1e-2, bits=bits), CAME(stopped, lr=1e-2, bits=bits)
    take_steps(one, straight, range(6))
    take_steps(first, stopped, range(3))
    second = CAME(stopped, bits=bits)
    second.load_state_dict(first.state_dict())
    take_steps(second, stopped, range(3, 6))
    assert second.param_groups[0]["lr"] == 1e-2
    assert all(torch.equal(a, b) for a, b in zip(straight, stopped, strict=True))
    for a, b in zip(straight, stopped, strict=True):
        assert all(torch.equal(one.state[a][name], second.state[b][name]) for name in one.state[a])


@pytest.mark.parametrize(("saved", "own"), [(8, 32), (32, 8)])
def test_a_state_of_the_other_precision_is_taken_over_and_the_bits_are_not(saved, own, monkeypatch):
    monkeypatch.setattr(batches, "MIN_EIGHT_BIT", 1)
    weights = parameters()
    first = CAME(weights, lr=1e-3, bits=saved)
    take_steps(first, weights, range(2))
    second = CAME(weights, lr=1e-2, bits=own)
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["bits"] == own
    assert second.param_groups[0]["lr"] == 1e-3
    kept = {name for state in second.state.values() for name in state}
    assert ("exp_avg_codes" in kept) == (own == 8)
    take_steps(second, weights, range(2, 3))
    assert all(p.isfinite().all() for p in weights)


def test_weights_that_moved_elsewhere_are_followed():
    weights = parameters()
    optimiser = CAME(weights, lr=1e-2)
    take_steps(optimiser, weights, range(1))
    old = weights[0].data
    weights[0].data = old.clone()
    take_steps(optimiser, weights, range(1, 2))
    assert not torch.equal(old, weights[0])
    weights[1].grad = None
    kept = weights[1].detach().clone()
    optimiser.step()
    assert torch.equal(kept, weights[1])


def test_gradients_are_let_go_after_the_step():
    weights = parameters()
    optimiser = CAME(weights)
    take_steps(optimiser, weights, range(1))
    kept = [weakref.ref(weight.grad) for weight in weights]
    for weight in weights:
        weight.grad = None
    assert all(gradient() is None for gradient in kept)


def stored(values: torch.Tensor) -> torch.Tensor:
    return stored_whole(values)[0]


def stored_whole(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The values that come back, and the codes and scales between."""
    codes, scale = torch.empty(len(values), dtype=torch.int8), torch.empty(-(-len(values) // eight_bit.BLOCK))
    spare = torch.empty_like(values)
    eight_bit.encode(values, codes, scale, spare)
    # a NaN would be cast to a code by accident: 0 on one processor, something else on another
    assert torch.isfinite(spare).all()
    out = torch.empty_like(values)
    eight_bit.decode(codes, scale, out, torch.empty_like(values))
    return out, codes, scale


@pytest.mark.parametrize("count", [2**20, 5000, 2048, 100])
def test_eight_bits_lose_little_and_only_once(count):
    torch.manual_seed(0)
    values = torch.distributions.StudentT(3.0).sample((count,))
    once, *state = stored_whole(values)
    # a linear code loses 0.035 here
    assert (once - values).norm() / values.norm() <= 0.016
    assert all(torch.equal(a, b) for a, b in zip(stored_whole(once)[1:], state, strict=True))
    top = values[: eight_bit.BLOCK].abs().argmax()
    assert once[top] == pytest.approx(values[top].item(), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-38, -1e-30, 3e38])
def test_extremes_give_no_nan_and_zero_is_zero(value):
    values = torch.zeros(4096)
    values[7] = value
    once = stored(values)
    assert torch.isfinite(once).all()
    assert (once[values == 0] == 0).all()
    assert once[7] == pytest.approx(value, rel=1e-5, abs=1e-30)


def test_states_take_a_sixth_of_adamws():
    weights = [nn.Parameter(torch.randn(768, 768)) for _ in range(4)] + [
        nn.Parameter(torch.randn(768)) for _ in range(4)
    ]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    ours, peer = CAME(weights, bits=8), torch.optim.AdamW(weights)
    ours.step()
    peer.step()
    size = [
        sum(t.untyped_storage().nbytes() for state in o.state.values() for t in state.values())
        for o in (ours, peer)
    ]
    assert size[0] <= 0.16 * size[1]


def test_eight_bits_stay_near_the_exact_steps():
    exact, coarse = parameters(), parameters()
    take_steps(CAME(exact, lr=1e-3), exact, range(8))
    take_steps(CAME(coarse, lr=1e-3, bits=8), coarse, range(8))
    start = parameters()[0]
    assert not torch.equal(exact[0], coarse[0])
    assert (exact[0] - coarse[0]).norm() <= 0.03 * (exact[0] - start).norm()


def test_stochastic_rounding_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.full((200_000,), 1.0 + 2**-10)
    rounded = round_randomly(x)
    assert set(rounded.float().unique().tolist()) == {1.0, 1.0 + 2**-7}
    assert rounded.float().mean().item() == pytest.approx(1 + 2**-10, abs=1e-4)
    # steps far below the precision of bfloat16 are lost without it
    moved = []
    for stochastic in (False, True):
        weight = nn.Parameter(torch.ones(256, 256, dtype=torch.bfloat16))
        optimiser = CAME([weight], lr=2e-5, bits=8, stochastic_rounding=stochastic)
        for _ in range(20):
            weight.grad = torch.rand(256, 256).to(torch.bfloat16)
            optimiser.step()
        moved.append((weight.detach().float() - 1).mean().item())
    assert moved[0] == 0 > moved[1]


def test_nonsense_is_refused():
    weight = [nn.Parameter(torch.zeros(2, 2))]
    for wrong in ({"lr": 0.0}, {"betas": (0.9, 0.9)}, {"bits": 4}, {"clip_threshold": 0.0}):
        with pytest.raises(ValueError, match=r"betas|bits"):
            CAME(weight, **wrong)
    one = CAME(weight)
    with pytest.raises(ValueError, match="the saved group has 1 parameters, this one 2"):
        CAME([*weight, nn.Parameter(torch.zeros(1))]).load_state_dict(one.state_dict())


RANKS = """
import sys, torch
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor
from safetensors.torch import save_file
sys.path.insert(0, sys.argv[1])
from test_came import gradients, parameters, take_steps
from diptych.optim import CAME
from diptych.training import ranks as distributed
torch.set_num_threads(1)
ranks = distributed.start()
mesh = ranks.mesh
bits = int(sys.argv[3])
weights = [nn.Parameter(distribute_tensor(p.data, mesh, [Shard(0)])) for p in parameters()]
def steps(optimiser, weights, numbers):
    for step in numbers:
        for weight, gradient in zip(weights, gradients(step)):
            weight.grad = distribute_tensor(gradient, mesh, [Shard(0)])
        optimiser.step()
first = CAME(weights, lr=1e-3, weight_decay=0.1, bits=bits)
steps(first, weights, range(5))
exported = first.state_dict()
second = CAME(weights, bits=bits)
second.load_state_dict(exported)
steps(second, weights, range(5, 10))
whole = {f"{n}": w.full_tensor().detach() for n, w in enumerate(weights)}
for n, w in enumerate(weights):
    for name, value in second.export_state(w).items():
        whole[f"{n}.{name}"] = value.full_tensor() if hasattr(value, "full_tensor") else value
if ranks.first:
    save_file({name: t.contiguous() for name, t in whole.items()}, sys.argv[2])
distributed.stop(ranks)
"""


@pytest.mark.parametrize("bits", [32, 8])
def test_two_ranks_with_rows_of_each_matrix_step_as_one_process(tmp_path, bits):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    here = str(Path(__file__).parent)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([here, str(Path(here).parent), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*torchrun, str(script), here, str(tmp_path / "w.safetensors"), str(bits)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    two = load_file(tmp_path / "w.safetensors")
    start, weights = parameters(), parameters()
    one = CAME(weights, lr=1e-3, weight_decay=0.1, bits=bits)
    take_steps(one, weights, range(10))
    for n, weight in enumerate(weights):
        difference = (two[f"{n}"] - weight.detach()).abs()
        # where sums differ in the last digit, a few codes are rounded the other way
        assert (
            difference.max() <= 1e-5 if bits == 32 else difference.norm() <= 0.01 * (weight - start[n]).norm()
        )
        for name, value in one.export_state(weight).items():
            assert two[f"{n}.{name}"].shape == value.shape
            if bits == 32:
                assert (two[f"{n}.{name}"] - value).abs().max() <= 1e-5 * value.abs().max()
