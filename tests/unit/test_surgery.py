"""Growing and pruning: what is kept to the bit, what is refused, what is measured."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY
from golden_files import load
from toy_system.model import ToyConfig, ToyModel

from diptych.files import typed
from diptych.models import processors
from diptych.models.linear_dit import LinearDiT, LinearDiTConfig, trim_text
from diptych.models.linear_dit.convert import config_from_native, from_native
from diptych.models.mot import Experts, MoT
from diptych.surgery import (
    Importance,
    add_lora,
    fast,
    grow,
    growth_plan,
    kept_blocks,
    lora_values,
    lora_weights,
    merge_lora,
    prepare,
    prune,
    widen,
)
from diptych.surgery.blocks import is_one_of, renamed

LINEAR = LinearDiTConfig(
    depth=4,
    width=96,
    cross_heads=4,
    channels=8,
    caption_channels=40,
    mlp_ratio=1.125,
    qk_norm=True,
    multi_frame=True,
)
MIXED = replace(TINY, depth=4, gen_experts=Experts(count=4, per_token=2, width=32))
MODELS = ("linear_dit", "mot", "experts", "toy")


def randomised(model, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def outputs(model, copies: int = 1) -> tuple[torch.Tensor, ...]:
    """What a model computes for fixed input: both streams of a mixture of transformers, the velocity of a
    linear DiT and of a model that this project knows nothing of.

    `copies`: of each channel, in a model that was widened.
    """
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    if isinstance(model, LinearDiT):
        text = torch.randn(2, 7, 40, generator=generator).to(dtype)
        return (
            model(
                torch.randn(2, 2, 8, 6, 4, generator=generator).to(dtype),
                torch.tensor([[0.3, 0.0], [0.9, 0.0]]),
                model.condition(text),
                roles=("target", "control"),
            ),
        )
    if isinstance(model, ToyModel):
        words = torch.randint(0, 256, (2, 7), generator=generator)
        return (
            model(
                torch.randn(2, 2, 3, 16, 8, generator=generator).to(dtype),
                torch.tensor([[0.3, 0.0], [0.9, 0.2]]).to(dtype),
                model.read(words, torch.ones(2, 7, dtype=torch.bool)),
            ),
        )
    positions = torch.arange(9)[None, :, None].expand(2, 9, 3).contiguous()
    width = model.config.width // copies
    und = torch.randn(2, 9, width, generator=generator).to(dtype).repeat(1, 1, copies)
    hidden, cache = model.prefix(
        und, positions, torch.tensor([9, 5]), torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
    )
    noisy = torch.randn(2, 3, 16, 8, generator=generator).to(dtype)
    return hidden[..., :width], model.denoise(noisy, torch.tensor([0.3, 0.9]), torch.ones(2), cache)


def models():
    return {
        "linear_dit": randomised(LinearDiT(LINEAR)),
        "mot": randomised(MoT(replace(TINY, depth=4))),
        "experts": randomised(MoT(MIXED)),
        "toy": randomised(ToyModel(ToyConfig(depth=4))),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_grown_model_is_its_prefix_to_the_bit_and_then_learns(name, dtype):
    model = models()[name].to(dtype)
    prefix, grown = prune(model, [0, 1]), grow(model, 7)
    assert len(grown.blocks) == grown.config.depth == 7
    for a, b in zip(outputs(prefix), outputs(grown), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(outputs(model)[0], outputs(grown)[0])
    whole = grow(model, 6, keep=4)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(whole), strict=True))
    grown = grown.float().requires_grad_()
    with torch.enable_grad():
        sum(out.square().sum() for out in outputs(grown)).backward()
    for block in grown.blocks[2:]:
        learning = {n for n, p in block.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        silent = {
            n for n, _ in block.named_parameters() if is_one_of(n.rpartition(".")[0], model.facts.silent)
        }
        assert silent
        if name in ("linear_dit", "toy"):
            assert learning == silent
        else:
            # an expert that no token chose has nothing to learn
            assert learning <= silent
            # a stream's last block has nothing to tell the other any more
            assert {n.split(".")[0] for n in learning} == {"und", "gen"}


def test_growing_twice_from_one_seed_gives_one_model():
    model = models()["mot"]
    a, b, c = grow(model, 6, seed=3), grow(model, 6, seed=3), grow(model, 6, seed=4)
    name = "blocks.5.gen.q.weight"
    assert torch.equal(a.state_dict()[name], b.state_dict()[name])
    assert not torch.equal(a.state_dict()[name], c.state_dict()[name])


@torch.no_grad()
def test_growth_follows_the_public_implementation():
    source = {name: tensor.float() for name, tensor in load("growth/source").items()}
    new, case = load("growth/new_blocks"), load("growth/case")

    def model_of(weights):
        model = LinearDiT(config_from_native(weights, cross_heads=4))
        model.load_state_dict(from_native(weights))
        return model.eval()

    def velocity(model):
        text, real = trim_text(case["text"], case["text_mask"])
        return model(case["latents"][:, None], case["timesteps"].floor() / 1000, model.condition(text, real))[
            :, 0
        ]

    model = model_of(source)
    torch.testing.assert_close(velocity(model), case["source_velocity"], rtol=0, atol=1e-5)
    grown = grow(model, 8, keep=3)
    torch.testing.assert_close(velocity(grown), case["grown_velocity"], rtol=0, atol=1e-5)
    assert torch.equal(velocity(grown), velocity(prune(model, [0, 1, 2])))
    kept = {name: tensor for name, tensor in source.items() if not name.startswith("blocks.3.")}
    theirs = model_of({**kept, **new})
    torch.testing.assert_close(velocity(theirs), case["grown_velocity"], rtol=0, atol=1e-5)
    # ours are drawn by the same rules; two of their five new blocks are kept
    for index in range(3, 8):
        for name, tensor in theirs.blocks[3 + index % 2].state_dict().items():
            ours = grown.blocks[index].state_dict()[name]
            assert ours.shape == tensor.shape
            assert ours.std().item() == pytest.approx(tensor.std().item(), rel=0.35, abs=1e-9), name
            assert ours.mean().item() == pytest.approx(tensor.mean().item(), abs=0.05), name


@torch.no_grad()
def test_other_strategies_repeat_blocks_and_share_nothing():
    model = models()["linear_dit"]
    cyclic, replicated = grow(model, 6, strategy="cyclic"), grow(model, 6, strategy="replicate")
    assert growth_plan(4, 6, strategy="cyclic") == [0, 1, 2, 3, 0, 1]
    assert growth_plan(4, 6, strategy="replicate") == [0, 0, 1, 2, 2, 3]
    for grown, again, first in ((cyclic, 4, 0), (replicated, 1, 0)):
        a, b = grown.blocks[again].table, grown.blocks[first].table
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()
    assert renamed("denoiser.blocks.0.attention.qkv.weight", [0, 0, 1]) == [
        f"denoiser.blocks.{n}.attention.qkv.weight" for n in (0, 1)
    ]
    assert renamed("blocks.3.table", [0, None]) == []
    assert renamed("head.weight", [0]) == ["head.weight"]


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("name", [*MODELS, "conv_head"])
def test_a_wider_model_computes_the_same_and_its_copies_grow_apart(name, copies):
    made = models() | {"conv_head": randomised(MoT(replace(TINY, depth=2, head="conv", head_width=16)))}
    model = made[name]
    wide = widen(model, copies * model.config.width)
    with torch.no_grad():
        for a, b in zip(outputs(model), outputs(wide, copies), strict=True):
            assert (a - b).abs().max() <= 1e-6 * a.abs().max()
    assert sum(p.numel() for p in wide.blocks.parameters()) > 0.85 * copies**2 * sum(
        p.numel() for p in model.blocks.parameters()
    )
    sum(out.square().sum() for out in outputs(wide, copies)).backward()
    layers = {
        "linear_dit": ("attention.out", "cross_attention.query"),
        "toy": ("out", "up"),
    }.get(name, ("gen.v", "gen.o"))
    for block in wide.blocks[:-1]:
        for layer in map(block.get_submodule, layers):
            one, *others = layer.weight.grad.chunk(copies)
            assert all((one - other).norm() > 0.05 * one.norm() for other in others)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), made[name].parameters(), strict=True))


def test_widths_that_cannot_be_are_refused():
    model = models()["linear_dit"]
    for width in (96, 100, 48, 0):
        with pytest.raises(
            ValueError,
            match=rf"width must be a multiple of 96, the model's own \(192, 288, \.\.\.\), got {width}",
        ):
            widen(model, width)
    with pytest.raises(ValueError, match="table of positions that depends on its width"):
        widen(LinearDiT(replace(LINEAR, position_scale=1.0)), 192)
    add_lora(model, 2)
    with pytest.raises(ValueError, match="LoRA"):
        widen(model, 192)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 4}, "has 4 blocks already; to grow it, depth must be more than that, got 4"),
        ({"depth": 2}, "got 2"),
        ({"depth": 8, "keep": 5}, "keep must be 1 to 4"),
        ({"depth": 8, "keep": 0}, "keep must be 1 to 4"),
        ({"depth": 8, "strategy": "magic"}, "strategy must be one of partial, cyclic, replicate"),
        ({"depth": 8, "keep": 2, "strategy": "cyclic"}, "keep belongs to the strategy 'partial'"),
    ],
)
def test_growth_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        grow(models()["mot"], **wrong)


def test_models_that_are_not_plain_are_refused():
    wrapped = models()["linear_dit"]
    add_lora(wrapped, 2)
    for operation in (lambda: grow(wrapped, 6), lambda: prune(wrapped, [0])):
        with pytest.raises(ValueError, match=r"LoRA adapters .* merge them first"):
            operation()
    packed = models()["linear_dit"]
    packed.blocks[0].attention.out = fast.PackedLinear(packed.blocks[0].attention.out)
    with pytest.raises(ValueError, match=r"no plain weight blocks\.0\.attention\.out"):
        grow(packed, 6)
    quantised = models()["mot"]
    layer = quantised.blocks[0].gen.ffn.down
    del layer.weight
    layer.register_buffer("weight", torch.zeros(48, 64, dtype=torch.int8))
    with pytest.raises(ValueError, match=r"ffn\.down\.weight is quantised \(int8\)"):
        prune(quantised, [0, 1])


@torch.no_grad()
def test_importance_is_one_minus_the_cosine_of_input_and_output():
    model = models()["linear_dit"]
    grown = grow(model, 6, keep=4)  # the last two blocks change nothing
    importance = Importance(6)
    seen = []
    hooks = [b.register_forward_hook(lambda m, i, o: seen.append((i[0], o))) for b in grown.blocks]
    with importance.watch(grown) as watch:
        watch.level = "0.5000"
        outputs(grown)
        outputs(grown)
    for hook in hooks:
        hook.remove()
    expected = [
        float((1 - torch.cosine_similarity(a.double(), b.double(), dim=-1)).mean()) for a, b in seen[:6]
    ]
    assert importance.scores() == pytest.approx(expected, abs=1e-6)
    assert importance.scores()[4:] == pytest.approx([0, 0], abs=1e-6)
    assert importance.tokens == {"0.5000": 2 * 2 * 2 * 24}
    assert kept_blocks(importance.scores(), 4) == [0, 1, 2, 3]
    assert all(
        torch.equal(a, b) for a, b in zip(outputs(prune(grown, [0, 1, 2, 3])), outputs(model), strict=True)
    )
    again = typed.convert(Importance, typed.parse(typed.to_json(importance), "calibration.json"))
    assert again == importance


@torch.no_grad()
def test_both_streams_of_a_mixture_count():
    model = models()["mot"]
    importance = Importance(4)
    with importance.watch(model) as watch:
        # a prefix may be read within a step, when it is first needed
        watch.level = "0.7000"
        _, cache = model.prefix(
            torch.randn(1, 5, 48),
            torch.zeros(1, 5, 3).long(),
            torch.tensor([5]),
            torch.ones(1, 1, 5, 5).bool(),
        )
        model.denoise(torch.randn(1, 3, 8, 8), torch.tensor([0.7]), torch.ones(1), cache)
    table = importance.table()
    assert set(table) == {"reading", "0.7000"}
    assert importance.tokens == {"reading": 5, "0.7000": 1}
    assert importance.scores() == pytest.approx([(a + b) / 2 for a, b in zip(*table.values(), strict=True)])


def test_pruning_that_cannot_be_is_refused():
    model = models()["mot"]
    assert kept_blocks([0.3, 0.1, 0.1, 0.2], 3) == [0, 1, 3]
    for depth in (0, 4, 9):
        with pytest.raises(ValueError, match=f"depth must be 1 to 3.*got {depth}"):
            kept_blocks([0.3, 0.1, 0.1, 0.2], depth)
    with pytest.raises(ValueError, match="at least one block"):
        prune(model, [])
    for wrong in ([1, 0], [0, 0], [0, 4], [-1, 2]):
        with pytest.raises(ValueError, match="kept blocks must rise from 0 to 3"):
            prune(model, wrong)
    with pytest.raises(ValueError, match="nothing was measured"):
        Importance(4).scores()
    broken = models()["linear_dit"]
    broken.blocks[1].table.data.fill_(float("nan"))
    importance = Importance(4)
    with (
        pytest.raises(ValueError, match="block 1 gave values that are not finite"),
        importance.watch(broken),
        torch.no_grad(),
    ):
        outputs(broken)


@pytest.mark.parametrize("name", MODELS)
def test_adapters_change_nothing_until_they_are_trained_and_merge_into_the_matrices(name):
    # a product with a frozen matrix may be another kernel's, and round otherwise
    model = models()[name].requires_grad_(False)
    before = outputs(model)
    plain = dict(model.named_parameters())
    add_lora(model, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(model), strict=True))
    adapters = lora_weights(model)
    assert {n.partition(".")[0] for n in adapters} == {"blocks"}
    assert all(any(is_one_of(n, (one,)) for n in adapters) for one in model.facts.adapted)
    assert all(a.shape[0] == b.shape[1] == 3 for a, b in adapters.values())
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in n for n in learning)
    optimiser = torch.optim.AdamW(learning.values(), lr=0.02)
    losses = []
    for _ in range(8):
        loss = sum((out - 1).square().mean() for out in outputs(model))
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.98 * losses[0]
    merged = merge_lora(model)
    assert set(dict(merged.named_parameters())) == set(plain)
    with torch.no_grad():
        for a, b, old in zip(outputs(model), outputs(merged), before, strict=True):
            assert (a - b).abs().max() <= 1e-5 * a.abs().max()
            assert not torch.allclose(b, old)
    # the model that was wrapped holds the matrices that it held
    wrapped = dict(model.named_parameters())
    for n, parameter in plain.items():
        assert torch.equal(
            wrapped.get(n, wrapped.get(n.replace(".weight", ".base_layer.weight"), parameter)), parameter
        )


@pytest.mark.parametrize("name", MODELS)
def test_adapters_put_on_a_model_without_storage_start_as_on_a_whole_one(name):
    model = models()[name]
    values = {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.device("meta"):
        bare = type(model)(model.config)
    for each in (model, bare):
        add_lora(each, 2, seed=5)
    assert all(p.is_meta for p in bare.parameters())
    filled = dict(lora_values(bare, iter(values.items()), seed=5))
    whole = dict(model.named_parameters())
    assert filled.keys() == whole.keys()
    assert all(torch.equal(filled[n], whole[n]) for n in whole)
    other = dict(lora_values(bare, iter(values.items()), seed=6))
    drawn = [n for n in whole if "lora_A" in n]
    assert not any(torch.equal(filled[n], other[n]) for n in drawn)
    assert len({filled[n].flatten()[0].item() for n in drawn}) == len(drawn)
    outer = torch.nn.ModuleDict({"denoiser": bare})
    inside = dict(lora_values(outer, ((f"denoiser.{n}", value) for n, value in values.items()), seed=5))
    assert inside.keys() == {f"denoiser.{n}" for n in whole}
    assert all(torch.equal(inside[f"denoiser.{n}"], whole[n]) for n in whole)


def test_adapters_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="rank of LoRA adapters must be at least 1, got 0"):
        add_lora(models()["toy"], 0)
    bare = models()["toy"]
    bare.blocks = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="no matrices that LoRA is put on"):
        add_lora(bare, 2)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_packed_copy_computes_the_same_and_leaves_the_model_alone(name, monkeypatch):
    model = models()[name]
    before, names = outputs(model), list(model.state_dict())
    monkeypatch.setattr(fast, "packing_pays", lambda: True)
    packed = prepare(model)
    for block in packed.blocks:
        assert not any(isinstance(layer, torch.nn.Linear) for layer in block.modules())
        assert any(isinstance(layer, fast.PackedLinear) for layer in block.modules())
    for a, b in zip(before, outputs(packed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == names
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(model), strict=True))
    monkeypatch.setattr(fast, "packing_pays", lambda: False)
    plain = prepare(model)
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(plain), strict=True))
    shared = zip(plain.parameters(), model.parameters(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in shared)


@pytest.mark.parametrize("packing", [False, True])
@torch.no_grad()
def test_compiled_blocks_compute_the_same(packing, monkeypatch):
    monkeypatch.setattr(fast, "packing_pays", lambda: packing)
    model = models()["toy"]
    torch.testing.assert_close(
        outputs(prepare(model, compile_blocks=True)), outputs(model), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("maker", "packs"), [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_the_processor_decides_about_packing_and_not_the_clock(maker, packs, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nvendor_id : {maker}\n")
    monkeypatch.setattr(processors, "_TOLD", tmp_path / "cpuinfo")
    assert processors.packing_pays.__wrapped__() is packs
