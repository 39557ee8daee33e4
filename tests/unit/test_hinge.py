"""The two forms of one computation: packed rows of training, and `read` and `denoise` of the hinge."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY

from diptych.clips import clip_turn
from diptych.contracts import Given, Picture, Prompt, Sample, Stack, Turn
from diptych.data.conversations.packing import Batch, collate
from diptych.data.conversations.tokens import Document, TextTokenizer
from diptych.data.frames import FrameBatch
from diptych.flow import FlowConfig, NoiseLaw, Objective
from diptych.models.mot import Experts, MoT
from diptych.request import RequestError, Role
from diptych.systems.u1.conversation import CLIP_GUIDES, Conversation
from diptych.systems.u1.memory import Memory
from diptych.systems.u1.packed import JointTask
from diptych.systems.u1.system import U1System
from diptych.training.tasks.generate import GenerateTask

FLOW = FlowConfig(
    noise_scale=1.5,
    noise_scale_base_tokens=16,
    law=NoiseLaw(mean=0.8, std=0.8, shift=1.0),
    objective=Objective(sigma_min=0.05, loss_sigma_min=0.2),
)
SIZE = 32
WORDS = ("a cat above two carrots", "remove the red heart", "a cat", "how many dogs are there?")
EXPERTS = {
    "und_experts": Experts(count=4, per_token=2, width=24),
    "gen_experts": Experts(count=3, per_token=1, width=24, normalise=False),
}


@pytest.fixture(params=["dense", "experts"])
def system(request: pytest.FixtureRequest, tokenizer: TextTokenizer) -> U1System:
    changes = EXPERTS if request.param == "experts" else {}
    model = MoT(replace(TINY, vocab_size=tokenizer.vocab_size, **changes))
    model.initialise(torch.Generator().manual_seed(0))
    for name in ("second.weight", "second.bias"):
        generator = torch.Generator().manual_seed(1)
        torch.nn.init.normal_(model.pixel_head.get_parameter(name), std=0.1, generator=generator)
    return U1System(model, tokenizer, FLOW, native=SIZE)


def pictures(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, SIZE, SIZE, 3), dtype=np.uint8)


def rows(edit: list[bool]) -> tuple[list[Sample], list[Prompt], list[Stack]]:
    """The same requests as samples of training and as what the hinge reads."""
    drawn, sources = pictures(0, len(edit)), pictures(1, len(edit))
    samples, stacks = [], []
    for text, target, source, has_source in zip(WORDS, drawn, sources, edit, strict=True):
        media = (Picture(source),) if has_source else ()
        turns = (Turn("user", (*media, text)), Turn("assistant", (Picture(target, drawn=True),)))
        samples.append(Sample(turns, "edit" if has_source else "generate"))
        given = (Given(Role.SOURCE, torch.from_numpy(source).permute(2, 0, 1)),) if has_source else ()
        stacks.append(Stack(SIZE, SIZE, given=given))
    return samples, [Prompt(text) for text in WORDS], stacks


def packed(system: U1System, samples: list[Sample], text: torch.Tensor, media: torch.Tensor) -> Batch:
    documents = [
        system.template.write(sample, bool(no_text), bool(no_media))
        for sample, no_text, no_media in zip(samples, text, media, strict=True)
    ]
    one_a_row = [[index] for index in range(len(documents))]
    return collate(one_a_row, documents, list(range(7, 7 + len(documents))), system.tokenizer.ids["<|pad|>"])


def gradients(model: MoT) -> dict[str, torch.Tensor]:
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize(
    ("edit", "text", "media"),
    [
        ([False] * 4, [False] * 4, [False] * 4),
        ([True] * 4, [False] * 4, [False] * 4),
        ([False] * 4, [True, False, True, False], [False] * 4),
        ([True] * 4, [True, False, False, True], [False, False, False, True]),
        ([True, False, True, False], [True, True, False, False], [True, True, False, False]),
        ([True] * 4, [False, True, False, True], [True, False, False, True]),
    ],
    ids=["generate", "edit", "generate dropped", "edit dropped", "mixed", "media alone"],
)
def test_packed_loss_and_gradients_are_those_through_read_and_denoise(system, edit, text, media):
    samples, prompts, stacks = rows(edit)
    no_text, no_media = torch.tensor(text), torch.tensor(media)
    batch = packed(system, samples, no_text, no_media)
    loss = JointTask(system.model, FLOW)(batch).sums["flow"]
    loss.backward()
    expected = gradients(system.model)

    frames = FrameBatch(
        prompts=tuple(prompts),
        stacks=tuple(stacks),
        pixels=torch.cat(batch.noisy)[:, None],
        target=torch.zeros(0),
        noise=torch.cat(batch.noise)[:, None],
        level=batch.level,
        drop_text=no_text,
        drop_media=no_media,
        # a picture counts as the square root of its tokens
        weight=torch.full((len(edit),), float(SIZE // system.token)),
    )
    hinge = GenerateTask(system, FLOW.law, FLOW.objective)(frames).sums["flow"]
    hinge.backward()

    torch.testing.assert_close(hinge, loss, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(system.model).items():
        limit = 1e-5 * max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=limit, msg=name)
    assert any(float(g.abs().max()) > 1e-3 for name, g in expected.items() if ".und." in name)


FRAMES = 3
CLIPS = Conversation(max_media=4, drawn_frames=4, clip_guides=tuple(CLIP_GUIDES))
STILL, MOVING = (0,), tuple(range(FRAMES))
GIVEN = {
    "text": (),
    "first": ((Role.FIRST, STILL),),
    "first and last": ((Role.FIRST, STILL), (Role.LAST, (FRAMES - 1,))),
    "edit": ((Role.SOURCE, MOVING), (Role.MASK, STILL)),
    "control and reference": ((Role.CONTROL, MOVING), (Role.REFERENCE, STILL)),
}


def clip_rows(given: tuple[tuple[Role, tuple[int, ...]], ...]) -> tuple[list[Sample], list[Stack]]:
    """The same requests for clips as samples of training and as what the hinge reads."""
    rng = np.random.default_rng(5)
    samples, stacks = [], []
    for text in WORDS[:2]:
        drawn = rng.integers(0, 255, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
        shown = [(role, drawn[::-1][list(times)]) for role, times in given]
        parts = clip_turn(text, [(role, f if len(f) > 1 else f[0]) for role, f in shown])
        turns = (Turn("user", parts), Turn("assistant", (Picture(drawn, drawn=True),)))
        samples.append(Sample(turns, "clip-edit" if given else "clip"))
        frames = [
            Given(role, torch.from_numpy(frame.copy()).permute(2, 0, 1), time)
            for (role, f), (_, times) in zip(shown, given, strict=True)
            for frame, time in zip(f, times, strict=True)
        ]
        stacks.append(Stack(SIZE, SIZE, MOVING, tuple(frames)))
    return samples, stacks


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize(("no_text", "no_media"), [(False, False), (True, False), (True, True)])
def test_packed_clips_are_those_through_read_and_denoise(system, kind, no_text, no_media):
    """Two clips in one packed row, beside a picture; through the hinge, each by itself."""
    clips = U1System(system.model, system.tokenizer, FLOW, SIZE, conversation=CLIPS)
    samples, stacks = clip_rows(GIVEN[kind])
    dropped = torch.tensor([no_text, False]), torch.tensor([no_media, False])
    documents = [
        clips.template.write(sample, bool(text), bool(media))
        for sample, text, media in zip(samples, *dropped, strict=True)
    ]
    picture = clips.template.write(rows([False] * 4)[0][0])
    order = [[0, 2, 1]]
    batch = collate(order, [*documents, picture], [7, 8, 9], clips.tokenizer.ids["<|pad|>"])
    assert batch.frames.tolist() == [FRAMES] * FRAMES + [1] + [FRAMES] * FRAMES
    task = JointTask(clips.model, FLOW)
    alone = collate([[0]], [picture], [9], clips.tokenizer.ids["<|pad|>"])
    loss = task(batch).sums["flow"] - task(alone).sums["flow"]
    loss.backward()
    expected = gradients(clips.model)

    every, noise = torch.cat(batch.noisy), torch.cat(batch.noise)
    chosen = [slice(0, FRAMES), slice(FRAMES + 1, None)]
    frames = FrameBatch(
        prompts=tuple(Prompt(text) for text in WORDS[:2]),
        stacks=tuple(stacks),
        pixels=torch.stack([every[at] for at in chosen]),
        target=torch.zeros(0),
        noise=torch.stack([noise[at] for at in chosen]),
        level=batch.level[[0, -1]],
        drop_text=dropped[0],
        drop_media=dropped[1],
        # a clip counts as the square root of all its tokens
        weight=torch.full((2,), (FRAMES * (SIZE // clips.token) ** 2) ** 0.5),
    )
    hinge = GenerateTask(clips, FLOW.law, FLOW.objective)(frames).sums["flow"]
    hinge.backward()
    torch.testing.assert_close(hinge, loss, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(clips.model).items():
        limit = 1e-5 * max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=limit, msg=name)
    shares = task.totals(batch)["flow"] - task.totals(alone)["flow"]
    assert shares == pytest.approx(float(frames.weight.sum()))


@torch.no_grad()
def test_a_clip_with_something_behind_it_is_drawn_as_without(system):
    """Its clean copy, frame by frame at the times of the noisy one, is not seen by what is drawn."""
    clips = U1System(system.model, system.tokenizer, FLOW, SIZE, conversation=CLIPS)
    (sample, _), _ = clip_rows(())
    asked = (*sample.turns, Turn("user", ("what is this?",)), Turn("assistant", ("a cat",)))
    losses = []
    for turns in (sample.turns, asked):
        document = clips.template.write(Sample(turns, "clip"))
        batch = collate([[0]], [document], [7], clips.tokenizer.ids["<|pad|>"])
        losses.append(JointTask(clips.model, FLOW)(batch).flow_pictures)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5)
    assert document.positions[document.kind == 0][-1, 0] == len(set(document.positions[:, 0])) - 1


@torch.no_grad()
def test_frames_of_a_clip_see_one_another_and_know_their_time(system):
    clips = U1System(system.model, system.tokenizer, FLOW, SIZE, conversation=CLIPS)
    _, stacks = clip_rows(())
    condition = clips.read([Prompt(WORDS[0])], stacks[:1])
    x = torch.randn(1, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    before = clips.denoise(x, torch.tensor([0.6]), condition)
    for changed in range(FRAMES):
        other = x.clone()
        other[:, changed] += 0.5
        moved = (clips.denoise(other, torch.tensor([0.6]), condition) - before).abs().flatten(2).amax(2)[0]
        assert bool((moved > 1e-6).all()), (changed, moved)
    backwards = clips.denoise(x.flip(1), torch.tensor([0.6]), condition).flip(1)
    assert float((backwards - before).abs().max()) > 1e-4
    levels = torch.tensor([[0.6] * FRAMES])
    torch.testing.assert_close(clips.denoise(x, levels, condition), before, rtol=0, atol=0)


@torch.no_grad()
def test_a_clip_that_is_read_behind_what_was_read_is_what_it_is_in_one_go(system):
    """The frames of a clip see one another there too, and one that is cut is read anew."""
    clip = np.random.default_rng(3).integers(0, 255, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)

    def told(*parts: str | Picture) -> Document:
        turns = (Turn("user", ("a cat",)), Turn("assistant", parts))
        return system.template.story_prefix(Sample(turns, "interleave"))

    memory = Memory(system.model, system.space, lambda document: system._prefix([document]))
    other = np.concatenate([clip[:2], 255 - clip[2:]])
    for parts in (("a cat",), ("a cat", Picture(clip), "a dog"), ("a cat", Picture(other), "a dog")):
        document = told(*parts)
        hidden, cache = memory.read(document, states=2)
        expected, whole = system._prefix([document])
        torch.testing.assert_close(hidden[:, -2:], expected[:, -2:], rtol=0, atol=1e-5)
        torch.testing.assert_close(cache.layers[-1][0], whole.layers[-1][0], rtol=0, atol=1e-5)
        assert int(cache.next_time) == int(whole.next_time)


def test_what_a_model_of_clips_cannot_read_is_refused(system):
    clips = U1System(
        system.model, system.tokenizer, FLOW, SIZE, conversation=replace(CLIPS, clip_guides=("first",))
    )
    frame = Given(Role.CONTROL, torch.zeros(3, SIZE, SIZE, dtype=torch.uint8))
    with pytest.raises(RequestError, match="draws clips by first, and by no control"):
        clips.read([Prompt("a")], [Stack(SIZE, SIZE, (0, 1), given=(frame,))])
    with pytest.raises(ValueError, match="clips of 4 frames at most; got 5"):
        clips.read([Prompt("a")], [Stack(SIZE, SIZE, times=tuple(range(5)))])
    one, two = (clips.read([Prompt("a")], [Stack(SIZE, SIZE, tuple(range(n)))]) for n in (1, 2))
    with pytest.raises(ValueError, match="different frames"):
        one.joined([two])
    with pytest.raises(ValueError, match="draw the same frames"):
        clips.read([Prompt("a")] * 2, [Stack(SIZE, SIZE), Stack(SIZE, SIZE, (0, 1))])


def test_every_parameter_has_a_gradient_whatever_the_rows_hold(system):
    """Ranks of a sharded model reduce the same gradients, though their rows differ."""
    generate, _, _ = rows([False] * 4)
    edit, _, _ = rows([True] * 4)
    text = [Sample((Turn("assistant", ("a cat",)),), "text")]
    keep = torch.zeros(4, dtype=torch.bool)
    empty = collate([[]], [], [], system.tokenizer.ids["<|pad|>"])
    for batch in (
        packed(system, generate, keep, keep),
        packed(system, edit, keep, keep),
        packed(system, text, keep[:1], keep[:1]),
        empty,
    ):
        losses = JointTask(system.model, FLOW)(batch)
        (losses.sums["text"] + losses.sums["flow"]).backward()
        assert not [name for name, p in system.model.named_parameters() if p.grad is None]
        assert all(bool(p.grad.isfinite().all()) for p in system.model.parameters())
        system.model.zero_grad(set_to_none=True)
    assert losses.sums["text"].item() == losses.sums["flow"].item() == 0.0


def denoised(system: U1System, condition, sigma: torch.Tensor) -> torch.Tensor:
    x = torch.randn(len(condition), 1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    return system.denoise(x, sigma, condition)


@torch.no_grad()
@pytest.mark.parametrize("read_before", [False, True])
def test_rows_dropped_chosen_and_joined_are_what_they_are_alone(system, read_before):
    _, prompts, stacks = rows([True, False, True, False])
    sigma = torch.tensor([0.9, 0.2, 0.5, 0.7])
    condition = system.read(prompts, stacks)
    if read_before:
        condition.prepare()
    text, media = torch.tensor([True, False, False, True]), torch.tensor([False, False, True, False])
    dropped = condition.dropped(text, media)
    alone = [
        system.read([prompt], [stack]).dropped(text[i : i + 1], media[i : i + 1])
        for i, (prompt, stack) in enumerate(zip(prompts, stacks, strict=True))
    ]
    together = denoised(system, dropped, sigma)
    joined = denoised(system, alone[0].joined(alone[1:]), sigma)
    torch.testing.assert_close(together, joined, rtol=0, atol=1e-5)
    x = torch.randn(4, 1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    back = system.denoise(x.flip(0), sigma.flip(0), dropped.rows([3, 2, 1, 0])).flip(0)
    torch.testing.assert_close(together, back, rtol=0, atol=1e-5)
    for row, condition in enumerate(alone):
        single = system.denoise(x[row : row + 1], sigma[row : row + 1, None], condition)
        torch.testing.assert_close(together[row : row + 1], single, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_negative_prompt_stands_in_the_place_of_the_text(system):
    _, _, stacks = rows([True] * 4)
    yes, sigma = torch.ones(1, dtype=torch.bool), torch.tensor([0.6])

    def drawn(prompt: Prompt, no_text: bool, no_media: bool) -> torch.Tensor:
        condition = system.read([prompt], stacks[:1])
        if no_text or no_media:
            condition = condition.dropped(yes & no_text, yes & no_media)
        return denoised(system, condition, sigma)

    negative = Prompt("a cat", negative="a dog")
    assert torch.equal(drawn(negative, False, False), drawn(Prompt("a cat"), False, False))
    assert torch.equal(drawn(negative, True, False), drawn(Prompt("a dog"), False, False))
    assert torch.equal(drawn(negative, True, True), drawn(Prompt("a dog"), False, True))
    assert not torch.equal(drawn(Prompt("a cat"), True, False), drawn(Prompt("a cat"), False, False))


def test_what_this_model_cannot_read_is_refused(system):
    frame = Given(Role.CONTROL, torch.zeros(3, SIZE, SIZE, dtype=torch.uint8))
    with pytest.raises(RequestError, match="reads no control"):
        system.read([Prompt("a")], [Stack(SIZE, SIZE, given=(frame,))])
    with pytest.raises(ValueError, match="single pictures, one frame at a time; got 2 frames"):
        system.read([Prompt("a")], [Stack(SIZE, SIZE, times=(0, 1))])
    with pytest.raises(ValueError, match="multiples of 8"):
        system.read([Prompt("a")], [Stack(30, SIZE)])
    with pytest.raises(ValueError, match="all rows of a batch draw one size"):
        system.read([Prompt("a")] * 2, [Stack(SIZE, SIZE), Stack(SIZE, 16)])
    one, other = system.read([Prompt("a")], [Stack(SIZE, SIZE)]), system.read([Prompt("a")], [Stack(16, 16)])
    with pytest.raises(ValueError, match="32x32 and 16x16"):
        one.joined([other])
    with pytest.raises(ValueError, match="got 2 frames"):
        system.denoise(torch.zeros(1, 2, 3, SIZE, SIZE), torch.ones(1), one)
    with pytest.raises(ValueError, match="embeds no guidance"):
        one.with_guidance(torch.ones(1))
    with pytest.raises(ValueError, match="sigma_min must be above 0"):
        U1System(system.model, system.tokenizer, FlowConfig(objective=Objective()), SIZE)
