"""The system over a backbone of ours, and every bridge, denoiser and space: changes of configuration."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY
from tiny_blip3o import language_model, stirred, vision_tower

from diptych.contracts import AnswerLimits, Given, Prompt, Stack
from diptych.encoders.backbone import Lends, Reader
from diptych.encoders.features import open_features
from diptych.files.folder import ModelFolderError
from diptych.flow import FlowConfig, SamplerConfig
from diptych.inference import Pipeline, draw
from diptych.models.connector import Bridge, BridgeConfig
from diptych.models.feature_dit import FeatureDiTConfig
from diptych.models.linear_dit import LinearDiT, LinearDiTConfig
from diptych.models.mot import MoT
from diptych.request import Message, RequestError, Role, Task
from diptych.spaces import load_space
from diptych.spaces.detokenizers import LatentDetokenizer
from diptych.spaces.features import FeatureSpace, measured
from diptych.systems import registry
from diptych.systems.blip3o.detokenize import DetokenizerSystem
from diptych.systems.blip3o.parts import make_denoiser, named_backbone, open_backbone
from diptych.systems.blip3o.settings import SAMPLER, NamedBackbone, identity_of
from diptych.systems.blip3o.system import BlipSystem
from diptych.systems.u1.system import U1System

pytest.importorskip("diffusers")
SIDE = 64
BRIDGES = {
    "queries": {"queries": 5},
    "connector": {"queries": 5, "depth": 1, "heads": 2, "outputs": 24},
    "states": {"layers": (0, 1, -1)},
}
DENOISERS = ("feature_dit", "linear_dit", "vae", "regression")
EVERY = [("queries", "feature_dit"), ("connector", "feature_dit"), ("states", "feature_dit")]
EVERY += [("queries", denoiser) for denoiser in DENOISERS[1:]]


class House:
    """A tiny model of ours, a tower, an autoencoder and a detokenizer between them, each in its folder."""

    def __init__(self, folder, tokenizer) -> None:
        import published

        self.folder = folder
        model = stirred(MoT(dataclasses.replace(TINY, vocab_size=tokenizer.vocab_size)))
        flow = FlowConfig(noise_scale_base_tokens=16, sampler=SamplerConfig(num_steps=2))
        U1System(model, tokenizer, flow, native=32, card={"name": "toy"}).save(folder / "ours")
        vision_tower(folder / "tower")
        published.pipeline(folder / "pipeline")
        self.latents = load_space(folder / "pipeline" / "vae")
        self.tower = open_features(folder / "tower")
        shown = torch.randint(
            0, 256, (4, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
        )
        plain = measured(FeatureSpace(self.tower, 2, SIDE), [shown])
        decoder = stirred(self.linear(self.latents.channels, 32))
        sampler = SamplerConfig(num_steps=2, shift=1.0, guidance_scale=2.0)
        made = LatentDetokenizer(decoder, self.latents, sampler, SIDE, self.tower.identity())
        self.space = FeatureSpace(self.tower, 2, SIDE, plain.mean, plain.deviation, made)

    @staticmethod
    def linear(channels: int, caption: int) -> LinearDiT:
        config = LinearDiTConfig(
            depth=2, width=32, cross_heads=1, channels=channels, caption_channels=caption
        )
        return LinearDiT(config)

    def backbone(self, name: str = "ours") -> Reader:
        return open_backbone(self.folder / name, registry.open_system, name == "ours")

    def system(self, bridge: str, denoiser: str, named: NamedBackbone | None = None, backbone=None):
        backbone = backbone or self.backbone()
        made = Bridge(BridgeConfig(kind=bridge, inputs=backbone.channels, **BRIDGES[bridge]))
        made.load_state_dict(dict(made.starting_values(torch.Generator().manual_seed(1))))
        space = self.latents if denoiser == "vae" else self.space
        if denoiser == "linear_dit":
            model = self.linear(space.channels, made.outputs)
        else:
            model = make_denoiser(
                FeatureDiTConfig(
                    depth=2,
                    width=32,
                    heads=2,
                    channels=space.channels,
                    caption_channels=made.outputs,
                    blind=denoiser == "regression",
                )
            )
        sampler = SAMPLER if denoiser != "regression" else dataclasses.replace(SAMPLER, num_steps=1)
        return BlipSystem(
            stirred(model), made.eval(), backbone, space, sampler, SIDE, {"name": "tiny"}, named
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory, tokenizer) -> House:
    return House(tmp_path_factory.mktemp("house"), tokenizer)


WORDS = ("a cat", "two carrots above the red heart", "what")


def velocity(system: BlipSystem, words=WORDS, dropped=()) -> torch.Tensor:
    x = torch.randn(len(words), *system.space.shape(SIDE, SIDE), generator=torch.Generator().manual_seed(4))
    gone = torch.tensor([row in dropped for row in range(len(words))])
    condition = system.read([Prompt(word) for word in words], [Stack(SIDE, SIDE)] * len(words))
    condition = condition.dropped(gone, torch.zeros_like(gone))
    with torch.no_grad():
        return system.denoise(x, torch.tensor([0.2, 0.5, 0.9])[: len(words)], condition)


@pytest.mark.parametrize(("bridge", "denoiser"), EVERY)
def test_every_combination_is_a_change_of_configuration(house, tmp_path, bridge, denoiser):
    system = house.system(bridge, denoiser)
    before = velocity(system)
    assert before.isfinite().all()
    system.save(tmp_path / "model")
    again = registry.open_system(tmp_path / "model")
    assert torch.equal(velocity(again), before)
    assert registry.settings_of(tmp_path / "model") == again.settings == system.settings
    # rows alone and together, dropped before and after they were read
    for row, word in enumerate(WORDS):
        x = torch.randn(3, *system.space.shape(SIDE, SIDE), generator=torch.Generator().manual_seed(4))
        condition = system.read([Prompt(word)], [Stack(SIDE, SIDE)])
        level = torch.tensor([0.2, 0.5, 0.9])[row : row + 1]
        with torch.no_grad():
            alone = system.denoise(x[row : row + 1], level, condition)
        torch.testing.assert_close(before[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    dropped = velocity(system, dropped=(1,))
    torch.testing.assert_close(dropped[[0, 2]], before[[0, 2]], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(dropped[1], before[1])
    drawn = Pipeline(again).run("a cat", task="text-to-image", seed=1).images[0]
    assert drawn.shape == (SIDE, SIDE, 3)


def test_plans_are_drawn_in_a_batch_as_alone(house):
    system = house.system("queries", "feature_dit")
    pipeline = Pipeline(system)
    plans = [
        pipeline.plan(word, task="text-to-image", seed=seed, steps=steps, guidance_scale=scale)
        for seed, (word, steps, scale) in enumerate(zip(WORDS, (2, 3, 2), (1.0, 3.0, 2.0), strict=True))
    ]
    together = draw(system, plans)
    for plan, frames in zip(plans, together, strict=True):
        (alone,) = draw(system, [plan])
        assert np.abs(frames.astype(int) - alone.astype(int)).max() <= 1
    system.accelerate()
    fast = draw(system, plans[:1])[0]
    assert np.abs(fast.astype(int) - together[0].astype(int)).max() <= 1


def test_answers_are_the_backbones_before_and_after_drawing_was_trained(house):
    alone = registry.open_system(house.folder / "ours")
    system = house.system("queries", "feature_dit")
    asked, limits = [[Message("user", "what is this?")]], AnswerLimits(max_tokens=8)
    expected = alone.answers(asked, limits)

    def same() -> bool:
        streamed = "".join(system.answer(asked[0], limits)).strip()
        return system.answers(asked, limits) == expected == [streamed]

    assert same()
    weights = {name: value.clone() for name, value in system.backbone.model.state_dict().items()}
    learning = [*system.model.parameters(), *system.bridge.parameters()]
    optimiser = torch.optim.AdamW(learning, lr=1e-2)
    for _ in range(2):
        condition = system.read([Prompt(word) for word in WORDS], [Stack(SIDE, SIDE)] * 3)
        x = torch.randn(3, *system.space.shape(SIDE, SIDE), generator=torch.Generator().manual_seed(1))
        system.denoise(x, torch.full((3,), 0.5), condition).square().mean().backward()
        assert system.bridge.queries.grad.any()
        optimiser.step()
        assert same()
    assert all(
        torch.equal(value, weights[name]) for name, value in system.backbone.model.state_dict().items()
    )


def test_every_row_dropped_leaves_the_queries_a_gradient_of_zero(house):
    system = house.system("queries", "feature_dit")
    condition = system.read([Prompt(word) for word in WORDS], [Stack(SIDE, SIDE)] * 3)
    condition = condition.dropped(torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool))
    x = torch.randn(3, *system.space.shape(SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    system.denoise(x, torch.full((3,), 0.5), condition).square().mean().backward()
    assert system.bridge.queries.grad is not None
    assert not system.bridge.queries.grad.any()


def test_states_of_prompts_are_the_same_from_a_cache(house):
    system = house.system("states", "feature_dit")
    assert system.text is not None
    assert house.system("queries", "feature_dit").text is None
    states, mask = system.text.encode(WORDS)
    cached = [Prompt(word, states=states[row, mask[row]]) for row, word in enumerate(WORDS)]
    x = torch.randn(3, *system.space.shape(SIDE, SIDE), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        found = system.denoise(x, torch.tensor([0.2, 0.5, 0.9]), system.read(cached, [Stack(SIDE, SIDE)] * 3))
    assert torch.equal(found, velocity(system))
    last = Bridge(BridgeConfig(kind="states", inputs=system.backbone.channels))
    other = BlipSystem(
        stirred(house.linear(32, last.outputs)), last, system.backbone, house.space, SAMPLER, SIDE
    )
    assert other.text.identity() != system.text.identity()


def test_a_negative_prompt_stands_in_place_of_zeros(house):
    system = house.system("queries", "feature_dit")
    rows = system.read([Prompt("a cat", negative="carrots")], [Stack(SIDE, SIDE)])
    gone, kept = torch.tensor([True]), torch.tensor([False])
    x = torch.randn(1, *system.space.shape(SIDE, SIDE), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        found = system.denoise(x, torch.tensor([0.5]), rows.dropped(gone, kept))
        told = system.denoise(x, torch.tensor([0.5]), system.read([Prompt("carrots")], [Stack(SIDE, SIDE)]))
        rows.prepare()
        late = system.denoise(x, torch.tensor([0.5]), rows.dropped(gone, kept))
    torch.testing.assert_close(found, told, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(late, told, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3"])
def test_any_language_model_of_transformers_will_do(house, tmp_path, kind):
    if not (house.folder / kind).is_dir():
        language_model(house.folder / kind, kind)
    system = house.system("queries", "feature_dit", backbone=house.backbone(kind))
    before = velocity(system)
    system.save(tmp_path / "model")
    again = registry.open_system(tmp_path / "model")
    assert torch.equal(velocity(again), before)
    assert registry.settings_of(tmp_path / "model") == again.settings
    asked = [[Message("user", "is it red?")]]
    assert again.log_odds(asked) == system.backbone.log_odds(asked)


def test_a_folder_names_its_backbone_by_hash_and_holds_no_copy(house, tmp_path):
    shutil.copytree(house.folder / "ours", tmp_path / "backbone-of-it")
    (tmp_path / "model").mkdir()
    named = named_backbone(str(tmp_path / "backbone-of-it"), tmp_path / "model", ours=True)
    assert named.model == "../backbone-of-it"
    assert named.sha256 == identity_of(house.folder / "ours")
    system = house.system("queries", "feature_dit", named)
    system.save(tmp_path / "model")
    assert not (tmp_path / "model" / "backbone").exists()
    assert torch.equal(velocity(registry.open_system(tmp_path / "model")), velocity(system))
    # written elsewhere, and aside first, it is named from there
    from diptych.files.whole import whole_folder

    with whole_folder(tmp_path / "deep" / "er" / "model") as aside:
        registry.open_system(tmp_path / "model").save(aside)
    moved = json.loads((tmp_path / "deep" / "er" / "model" / "config.json").read_text())["backbone"]
    assert moved == {**dataclasses.asdict(named), "model": "../../../backbone-of-it"}
    assert torch.equal(velocity(registry.open_system(tmp_path / "deep" / "er" / "model")), velocity(system))
    other = registry.open_system(house.folder / "ours")
    with torch.no_grad():
        other.model.text_head.weight.add_(1)
    shutil.rmtree(tmp_path / "backbone-of-it")
    with pytest.raises(ModelFolderError, match="is no folder here"):
        registry.open_system(tmp_path / "model")
    other.save(tmp_path / "backbone-of-it")
    with pytest.raises(ModelFolderError, match="was trained on another backbone"):
        registry.open_system(tmp_path / "model")


def test_a_system_without_a_language_model_is_no_backbone(house):
    assert isinstance(registry.open_system(house.folder / "ours"), Lends)
    with pytest.raises(ModelFolderError, match="which has no language model that a bridge could hang on"):
        open_backbone(house.folder / "pipeline", registry.open_system, ours=True)


def changed(folder, **values) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in values.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(config))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "sha256": {}}))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"bridge": {"kind": "states"}}, "a bridge of states: the config has no place for queries"),
        (
            {"bridge": {"kind": "connector", "heads": 2}},
            r"a bridge of connector: .* no connector\.|have no connector",
        ),
        ({"bridge": {"queries": 6}}, "queries is"),
        ({"denoiser": {"kind": "rope"}}, "kind must be one of feature_dit, linear_dit"),
        ({"denoiser": {"depth": 1}}, "the config has 1 blocks, the weights 2"),
        ({"backbone": {"sha256": "ab"}}, "a backbone that the folder does not hold has a sha256"),
        ({"backbone": {"request": "draw"}}, "request must hold one {}"),
    ],
)
def test_folders_that_contradict_themselves(house, tmp_path, values, says):
    house.system("queries", "feature_dit").save(tmp_path / "model")
    changed(tmp_path / "model", **values)
    with pytest.raises(ModelFolderError, match=says):
        registry.open_system(tmp_path / "model")


def test_parts_that_do_not_go_together(house):
    system = house.system("queries", "feature_dit")
    parts = [system.model, system.bridge, system.backbone, system.space, SAMPLER, SIDE]

    def with_(place: int, part) -> None:
        BlipSystem(*[part if at == place else old for at, old in enumerate(parts)])

    with pytest.raises(ValueError, match="the bridge gives 48 channels, the denoiser reads 12"):
        with_(0, house.linear(32, 12))
    with pytest.raises(ValueError, match="the language model has 48 channels, the bridge reads 20"):
        with_(1, Bridge(BridgeConfig(inputs=20)))
    with pytest.raises(ValueError, match="the image space has 4 channels, the denoiser draws 32"):
        with_(3, house.latents)
    short = house.backbone()
    short.context = 5
    with pytest.raises(
        ValueError, match="the bridge has 5 queries, and the language model's context holds 5"
    ):
        with_(2, short)
    short.context = 20
    few = BlipSystem(*[short if at == 2 else old for at, old in enumerate(parts)])
    with pytest.raises(RequestError, match="5 queries included, more than the 20"):
        few.read([Prompt("a cat " * 10)], [Stack(SIDE, SIDE)])


def test_what_a_batch_cannot_be(house):
    system = house.system("queries", "feature_dit")
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    for stack in (Stack(SIDE, SIDE, given=(Given(Role.SOURCE, pixels),)), Stack(SIDE, SIDE, (0, 1))):
        with pytest.raises(RequestError, match="single pictures from text alone"):
            system.read([Prompt("a cat")], [stack])
    with pytest.raises(ValueError, match="all rows of a batch draw one size"):
        system.read([Prompt("a"), Prompt("b")], [Stack(SIDE, SIDE), Stack(32, 32)])
    with pytest.raises(RequestError, match="must be 1 to 64 px"):
        Pipeline(system).plan("a cat", task="text-to-image", width=128, height=128)
    assert system.settings.tasks == {Task.ANSWER, Task.TEXT_TO_IMAGE}


def test_a_detokenizer_is_trained_through_the_hinge(house):
    system = DetokenizerSystem(
        stirred(house.linear(house.latents.channels, 32)), house.latents, house.space, SAMPLER
    )
    pixels = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    seen = Stack(SIDE, SIDE, given=(Given(Role.REFERENCE, pixels),))
    target = house.space.encode(pixels[None, None])[0, 0]
    cached = Stack(SIDE, SIDE, given=(Given(Role.REFERENCE, torch.zeros(0), target=target),))
    x = torch.randn(2, *house.latents.shape(SIDE, SIDE), generator=torch.Generator().manual_seed(4))
    levels = torch.tensor([0.3, 0.7])
    condition = system.read([Prompt("")] * 2, [seen, cached])
    both = system.denoise(x, levels, condition)
    torch.testing.assert_close(
        both[1:], system.denoise(x[1:], levels[1:], system.read([Prompt("")], [seen])), atol=1e-5, rtol=1e-5
    )
    both.square().mean().backward()
    assert system.model.blocks[0].cross_attention.key_value.weight.grad.any()
    none, first = torch.zeros(2, dtype=torch.bool), torch.tensor([True, False])
    with torch.no_grad():
        dropped = system.denoise(x, levels, condition.dropped(first, none))
        given = system.denoise(x, levels, condition.dropped(none, first))
    assert torch.equal(dropped, given)
    assert not torch.allclose(dropped[0], both[0])
    torch.testing.assert_close(dropped[1], both[1], atol=1e-5, rtol=1e-5)
    # what it draws is what its detokenizer draws
    plan = Pipeline(system).plan("it", 1, task="reference-to-image", seed=3, steps=2)
    assert plan.width == SIDE
    drawn = system.detokenizer().draw(house.space.raw(target[None]), [3])
    assert drawn.shape == (1, 3, SIDE, SIDE)
    with pytest.raises(RequestError, match="draws from one picture a row, got 0"):
        system.read([Prompt("")], [Stack(SIDE, SIDE)])
    with pytest.raises(ValueError, match="the features have 32 channels, the detokenizer reads 12"):
        DetokenizerSystem(house.linear(4, 12), house.latents, house.space, SAMPLER)


def test_gradients_reach_every_block_and_a_compiled_one_computes_the_same(house):
    system, compiled = (house.system("queries", "feature_dit") for _ in range(2))
    condition = system.read([Prompt(word) for word in WORDS], [Stack(SIDE, SIDE)] * 3)
    x = torch.randn(3, *system.space.shape(SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    system.denoise(x, torch.tensor([0.3, 0.5, 0.8]), condition).square().mean().backward()
    for parameter in system.model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert all(block.attention.out.weight.grad.any() for block in system.model.blocks)
    compiled.model.blocks[0].compile(backend="aot_eager")
    torch.testing.assert_close(velocity(compiled), velocity(system), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("denoiser", ["feature_dit", "linear_dit"])
def test_a_grown_a_wide_and_a_pruned_model_are_saved_and_opened(house, tmp_path, denoiser):
    from diptych.surgery import grow, prune, widen

    system = house.system("queries", denoiser)
    before = velocity(system)
    plain = system.model
    system.model = widen(plain, 64)
    torch.testing.assert_close(velocity(system), before, atol=1e-4, rtol=1e-4)
    system.model = grow(plain, 3, keep=2)
    assert torch.equal(velocity(system), before)
    system.save(tmp_path / "grown")
    grown = registry.open_system(tmp_path / "grown")
    assert torch.equal(velocity(grown), before)
    grown.model = prune(grown.model, [0, 1])
    assert torch.equal(velocity(grown), before)
    grown.save(tmp_path / "pruned")
    assert len(registry.open_system(tmp_path / "pruned").model.blocks) == 2


def test_a_condition_has_rows_and_everything_else_one_entry_for_each(house):
    system = house.system("queries", "feature_dit")
    condition = system.read([Prompt("a cat"), Prompt("what")], [Stack(SIDE, SIDE)] * 2)
    no, yes = torch.zeros(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    for wrong in (
        lambda: system.read([], []),
        lambda: system.read([Prompt("a")], [Stack(SIDE, SIDE)] * 2),
        lambda: condition.rows([]),
        lambda: condition.dropped(yes, no),
        lambda: condition.dropped(no, yes),
    ):
        with pytest.raises(ValueError, match=r"at least one row|must have one entry a row"):
            wrong()
    other = dataclasses.replace(condition, size=(32, 32))
    with pytest.raises(ValueError, match="must be of one size"):
        condition.joined([other])
    with pytest.raises(ValueError, match="embeds no guidance scale"):
        condition.with_guidance(torch.ones(2))


def test_what_a_model_can_do_is_told_without_torch(house, tmp_path):
    import subprocess
    import sys

    house.system("queries", "feature_dit").save(tmp_path / "model")
    code = f"""
import sys
from diptych.systems.registry import settings_of

settings_of({str(tmp_path / "model")!r})
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "numpy", "diffusers", "transformers"} & set(done.stdout.split())
