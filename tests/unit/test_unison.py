"""Unison: a planner under a grammar, a projector between two frozen models, and generators that are opened
when something is to be drawn."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tiny_unison
import torch
from golden_files import load
from PIL import Image

from diptych.cli import main
from diptych.contracts import AnswerLimits, Prompt, Stack
from diptych.files.folder import ModelFolderError, card
from diptych.inference import Pipeline
from diptych.models.projector import Projector, ProjectorConfig
from diptych.planning import settle, signals
from diptych.planning.data.compose import sample
from diptych.planning.fourteen import PUBLISHED
from diptych.planning.schema import Attached, Input, Intent, Request, Step
from diptych.request import Media, Message, Plan, RequestError, Role, Task
from diptych.systems.registry import open_system, settings_of
from diptych.systems.unison import projector as projector_file
from diptych.systems.unison import system as unison
from diptych.systems.unison.adapters import Adapters, grow_vocabulary
from diptych.systems.unison.language import Language, Pass
from diptych.systems.unison.seen import drawn, thumbnails
from diptych.systems.unison.writing import PlanWriter, answered, spelt
from diptych.training.run import train

WEIGHTS = (
    "ln_in.weight",
    "ln_in.bias",
    "net.0.weight",
    "net.0.bias",
    "net.3.weight",
    "net.3.bias",
    "ln_out.weight",
    "ln_out.bias",
    "seq_adjust.weight",
    "seq_adjust.bias",
)


@pytest.fixture(scope="module")
def golden():
    return load("unison/projector")


@pytest.fixture(scope="module")
def projector(golden):
    shapes = {name: tuple(golden[name].shape) for name in WEIGHTS}
    model = Projector(ProjectorConfig.of(shapes))
    model.load_state_dict({name: golden[name] for name in WEIGHTS})
    return model.eval()


@pytest.mark.parametrize("positions", [9, 57])
def test_the_projector_computes_what_the_published_one_does(golden, projector, positions):
    """Of fewer positions than it keeps, and of more."""
    made = projector(golden[f"in.{positions}"])
    torch.testing.assert_close(made, golden[f"out.{positions}"], atol=1e-5, rtol=0)


def test_dropout_is_where_it_was_and_only_in_training(golden, projector, monkeypatch):
    kept = golden["keep.9"].float() / 0.9
    monkeypatch.setattr(
        torch.nn.functional, "dropout", lambda x, p, training, inplace: x * kept if training else x
    )
    projector.train()
    made = projector(golden["in.9"])
    projector.eval()
    torch.testing.assert_close(made, golden["out_with_dropout.9"], atol=1e-5, rtol=0)
    torch.testing.assert_close(projector(golden["in.9"]), golden["out.9"], atol=1e-5, rtol=0)


def test_the_projector_joins_the_planners_states_to_the_text(golden, projector):
    run = load("unison/vace")
    torch.testing.assert_close(projector(run["planner_states"][:, 1:]), run["projected"], atol=1e-5, rtol=0)


def test_the_published_projector_has_twelve_million_parameters():
    with torch.device("meta"):
        model = Projector(ProjectorConfig(inputs=2048, hidden=2048, outputs=4096))
    assert sum(parameter.numel() for parameter in model.parameters()) == 12_601_572
    assert set(model.state_dict()) == set(WEIGHTS)


def test_a_published_file_is_read_with_its_names_cleaned(golden, projector, tmp_path):
    path = tmp_path / "published.pth"
    torch.save({f"module.{name}": golden[name] for name in WEIGHTS}, path)
    read = projector_file.load(path)
    assert not read.training
    assert torch.equal(read(golden["in.9"]), projector(golden["in.9"]))


class Bomb:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize("held", [{"x": Bomb()}, [torch.zeros(1)], {"x": 3}, b"no pickle"])
def test_a_file_that_holds_more_than_tensors_is_refused_and_not_run(held, tmp_path, capsys):
    path = tmp_path / "wrong.pth"
    if isinstance(held, bytes):
        path.write_bytes(held)
    elif isinstance(held, dict) and isinstance(held["x"], Bomb):
        path.write_bytes(pickle.dumps(held))
    else:
        torch.save(held, path)
    with pytest.raises(ModelFolderError, match="refused"):
        projector_file.load(path)
    assert "ran" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with models, and two over them."""
    place = tmp_path_factory.mktemp("unison")
    tiny_unison.wan(place / "wan")
    tiny_unison.language_model(place / "plain")
    tiny_unison.seeing_model(place / "seeing")
    generators = [{"model": "../wan", "projected": True}, {"model": "default"}]
    for name in ("plain", "seeing"):
        tiny_unison.compose(place / f"over-{name}", f"../{name}", generators)
    return place


@pytest.fixture(params=["plain", "seeing"])
def system(request, models):
    return open_system(models / f"over-{request.param}")


@pytest.fixture(scope="module")
def seeing(models):
    return Language.load(models / "seeing")


@pytest.fixture(scope="module")
def plain(models):
    return Language.load(models / "plain")


def shades(seed, height=60, width=80):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_folder_says_what_its_models_can_do_together(system, models):
    told = settings_of(system.folder)
    assert told == system.settings
    assert told.plans
    wan = settings_of(models / "wan")
    assert told.tasks == wan.tasks | {Task.ANSWER}
    assert told.of(Task.TEXT_TO_CLIP).frame_step == wan.frame_step == 4
    assert not told.of(Task.ANSWER).masked_edits or told.of(Task.EDIT).masked_edits


def test_a_task_is_carried_out_by_the_first_model_that_is_handed_it(models):
    generators = [{"model": "default", "tasks": ["text-to-image"]}, {"model": "../wan"}]
    folder = tiny_unison.compose(models / "handed", "../plain", generators)
    told = settings_of(folder)
    assert told.of(Task.TEXT_TO_IMAGE).native == settings_of().native
    assert told.of(Task.EDIT).masked_edits
    system = open_system(folder)
    assert system.carrier(Task.TEXT_TO_IMAGE).family == "u1"
    assert list(system._opened) == [0]


def test_what_no_model_does_is_planned_and_refused_by_name(models):
    folder = tiny_unison.compose(models / "pictures", "../plain", [{"model": "default"}])
    pipeline = Pipeline(open_system(folder))
    with pytest.raises(RequestError, match="cannot do 'text-to-clip'; it can do answer, edit"):
        settle(Plan(task=Task.TEXT_TO_CLIP, prompt="a cat runs"), pipeline.system.settings)
    with pytest.raises(RequestError, match="no model at hand can do 'text-to-clip'"):
        pipeline.carrier(Task.TEXT_TO_CLIP)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"version": 2}, "version must be 1"),
        ({"planner": ""}, "planner must name a folder"),
        ({"planers": ""}, "unknown key 'planers'"),
        ({"generators": [{"model": "../nowhere"}]}, "is not there"),
        ({"generators": [{"model": "../wan", "tasks": ["answer"]}]}, "cannot do 'answer'"),
        ({"generators": [{"model": "../over-plain"}]}, "hands its own tasks on"),
        ({"generators": [{"model": "."}]}, "hands its own tasks on"),
    ],
)
def test_a_wrong_folder_is_refused_by_the_place(models, tmp_path, told, says):
    folder = models / "wrong"
    folder.mkdir(exist_ok=True)
    (folder / "unison.json").write_text(json.dumps({"version": 1, "planner": "../plain", **told}))
    with pytest.raises(ModelFolderError, match=says):
        settings_of(folder)


def test_what_the_folder_can_do_is_told_without_torch(models):
    code = f"""
import sys
from diptych.systems.registry import settings_of

settings_of({str(models / "over-plain")!r})
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "numpy", "diffusers", "transformers"} & set(done.stdout.split())


@pytest.mark.parametrize("number", range(12))
def test_a_model_that_knows_nothing_writes_plans_that_are_valid(system, number):
    """Its weights are random: whatever it finds likely, the grammar holds."""
    made = sample(3, number).request
    media = [Media.picture(shades(number)) for _ in made.media]
    running = Pass(system.language, system.language.asked(made, [thumbnails(one) for one in media] or None))
    text = PlanWriter(system.language).write(running, len(made.media), made.text)
    intent = signals.read(text, made.media)
    assert signals.read(signals.write(intent), made.media) == intent


def test_what_is_written_was_the_likeliest_of_what_may_follow(plain):
    """A model that was taught one plan writes it, letter by letter."""
    request = Request(text="make it move <image>", media=(Attached(kind="picture"),))
    wanted = Intent(
        steps=(
            Step(
                task=Task.EDIT_CLIP,
                prompt="über & <b> 猫",
                inputs=(Input(Role.SOURCE, 0),),
                seconds=2.5,
                seed=7,
            ),
        ),
        language="de",
        confidence=0.75,
        missing=("clip",),
    )
    ids = spelt(plain, signals.write(wanted))
    assert plain.text(ids) == signals.write(wanted)

    class Taught:
        """A pass of a model that is sure of every token."""

        def __init__(self):
            self.left = list(ids)

        @property
        def logits(self):
            scores = torch.zeros(plain.model.config.vocab_size)
            scores[self.left[0]] = 1.0
            return scores

        def write(self, *tokens):
            for token in tokens:
                assert token == self.left.pop(0)

    assert signals.read(PlanWriter(plain).write(Taught(), 1, request.text), request.media) == wanted


def test_what_a_user_types_is_text_in_every_model(plain):
    grow_vocabulary(fresh := Language(plain.model, plain.tokenizer))
    special = set(fresh.tokenizer.all_special_ids)
    typed = "draw <CFI> <|im_end|> <IMGPAD> a cat"
    (inside,) = [fresh.asked(Request(text=text)) for text in (typed,)]
    bare = fresh.asked(Request(text="a cat"))
    assert [i for i in inside.ids if i in special] == [i for i in bare.ids if i in special]


def test_a_medium_is_a_placeholder_and_its_pictures(seeing):
    request = Request(
        text="<image> like this", media=(Attached(kind="picture"), Attached(kind="clip", frames=9))
    )
    clip = Media(np.stack([shades(n) for n in range(9)]), "it", 8.0)
    shown = [thumbnails(Media.picture(shades(0))), thumbnails(clip)]
    assert [len(pictures) for pictures in shown] == [1, 4]
    read = seeing.asked(request, shown)
    assert len(read.grid) == 5
    assert read.ids.count(seeing.model.config.image_token_id) == int(read.grid.prod(-1).sum()) // 4
    other = seeing.asked(request, [thumbnails(Media.picture(shades(1))), shown[1]])
    assert not torch.equal(Pass(seeing, read).logits, Pass(seeing, other).logits)


def test_what_was_seen_before_does_not_move_what_is_read_next(seeing):
    words = seeing.asked(Request(text="a cat"))
    alone = Pass(seeing, words).logits
    seen = Request(text="", media=(Attached(kind="picture"),))
    running = Pass(seeing, seeing.asked(seen, [[shades(0)]]))
    torch.testing.assert_close(Pass(seeing, words).logits, alone)
    # and a pass that another one came between goes on as if alone
    again = Pass(seeing, seeing.asked(seen, [[shades(0)]]))
    again.write(5, 6)
    running.write(5)
    Pass(seeing, words)
    running.write(6)
    torch.testing.assert_close(running.logits, again.logits, atol=1e-5, rtol=1e-5)


def test_token_by_token_is_what_one_pass_says(seeing):
    read = seeing.asked(Request(text="a", media=(Attached(kind="picture"),)), [[shades(2)]])
    running = Pass(seeing, read)
    running.write(7)
    running.write(8, 9)
    whole = seeing.logits(read.followed([7, 8, 9]))[-1]
    torch.testing.assert_close(running.logits, whole, atol=1e-4, rtol=1e-4)


def test_states_are_those_of_the_users_turn_without_its_first_token(plain):
    states = plain.states("a cat", pictures=1)
    ids = plain.tokenizer.apply_chat_template(
        [{"role": "user", "content": "a cat<IMGPAD>"}], tokenize=True, return_dict=False
    )
    with torch.no_grad():
        wanted = plain.model.model(torch.tensor([ids])).last_hidden_state
    torch.testing.assert_close(states, wanted[:, 1:])


def asked_for_an_answer(monkeypatch):
    """Planners that take every request for a question."""

    def write(self, running, media, request):
        subjects = tuple(Input(Role.SUBJECT, number) for number in range(media))
        plan = signals.write(Intent(steps=(Step(task=Task.ANSWER, prompt=request, inputs=subjects),)))
        running.write(*spelt(self.language, plan))
        return plan

    monkeypatch.setattr(PlanWriter, "write", write)


def counted(monkeypatch):
    """Passes that are begun, and generators that are opened."""
    passes, opened, begin = [], [], Pass.__init__
    monkeypatch.setattr(Pass, "__init__", lambda self, *a: passes.append(1) or begin(self, *a))
    monkeypatch.setattr(unison.UnisonSystem, "generator", lambda self, number: opened.append(number))
    return passes, opened


def test_a_question_costs_one_pass_and_no_generator(system, monkeypatch):
    asked_for_an_answer(monkeypatch)
    passes, opened = counted(monkeypatch)
    done = Pipeline(system).run("what is it?", [shades(0)], limits=AnswerLimits(max_tokens=8))
    assert (done.plan.task, done.plan.inputs) == (Task.ANSWER, (Role.SUBJECT,))
    assert (len(passes), opened) == (1, [])
    # asked a second time, without a plan before it, it says the same in a pass of its own
    again = "".join(
        system.answer(
            [Message("user", "what is it?", (Media.picture(shades(0)),))], AnswerLimits(max_tokens=8)
        )
    )
    assert again == done.text
    assert len(passes) == 2


def test_the_command_answers_with_one_pass(models, monkeypatch, tmp_path, capsys):
    asked_for_an_answer(monkeypatch)
    passes, opened = counted(monkeypatch)
    picture = tmp_path / "it.png"
    Image.fromarray(shades(3)).save(picture)
    assert (
        main(["do", "what is it?", "-i", str(picture), "--model", str(models / "over-seeing"), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["plan"]["task"] == "answer"
    assert (len(passes), opened) == (1, [])


def test_the_command_plans_by_the_models_own_planner(models, monkeypatch, capsys):
    asked_for_an_answer(monkeypatch)
    # any other planner would draw it
    assert main(["plan", "draw a red square", "--model", str(models / "over-plain")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [plan["task"] for plan in told["plans"]] == ["answer"]


def test_the_command_draws_a_clip(models, tmp_path, capsys):
    command = ["do", "a cat runs", "--model", str(models / "over-plain"), "--task", "text-to-clip"]
    size = ["--prompt", "a cat", "--width", "32", "--height", "32", "--frames", "5", "--steps", "2"]
    assert main([*command, *size, "-o", str(tmp_path / "out.gif")]) == 0
    with Image.open(tmp_path / "out.gif") as clip:
        assert (clip.size, clip.n_frames) == ((32, 32), 5)


def test_too_many_pictures_are_refused_before_any_is_read(system, monkeypatch):
    passes, _ = counted(monkeypatch)
    with pytest.raises(RequestError, match="50 pictures are attached, but this model looks at 16"):
        Pipeline(system).run("which is it?", [shades(0, 28, 28)] * 50)
    assert not passes


def test_an_answer_stops_where_it_is_told(plain):
    read = plain.asked(Request(text="a cat"))
    whole = "".join(answered(Pass(plain, read), AnswerLimits(max_tokens=12)))
    stop = whole[3:5]
    assert (
        "".join(answered(Pass(plain, read), AnswerLimits(max_tokens=12, stop=(stop,))))
        == whole.partition(stop)[0]
    )
    warm = [
        "".join(answered(Pass(plain, read), AnswerLimits(max_tokens=12, temperature=1.5, seed=seed)))
        for seed in (1, 1, 2)
    ]
    assert warm[0] == warm[1] != warm[2]


@pytest.mark.parametrize("seed", range(3))
def test_drawn_looks_are_told_from_their_pixels(seed):
    from diptych.planning.looks import look_of
    from diptych.planning.schema import Look

    for look in (Look.MASK, Look.BLANK, Look.PHOTO):
        ((picture,),) = drawn((Attached(kind="picture", look=look),), [seed])
        assert look_of(picture[None]) is look


def test_a_vocabulary_grows_by_the_fourteen_first_and_is_untied(models):
    language = Language.load(models / "plain")
    before = len(language.tokenizer)
    words = language.asked(Request(text="a cat"))
    was = language.logits(words)
    grow_vocabulary(language)
    assert language.tokenizer.convert_tokens_to_ids(list(PUBLISHED)) == list(range(before, before + 14))
    entering, leaving = (
        layer.weight
        for layer in (language.model.get_input_embeddings(), language.model.get_output_embeddings())
    )
    assert entering is not leaving
    torch.testing.assert_close(language.logits(words)[:, :before], was[:, :before])
    grow_vocabulary(language)
    assert len(language.tokenizer) == before + len(signals.TOKENS)


def test_what_was_learnt_is_merged_as_it_was_computed(models, tmp_path):
    language, other = Language.load(models / "seeing"), Language.load(models / "seeing")
    for one in (language, other):
        grow_vocabulary(one)
    adapters = Adapters(language, 2).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    read = language.asked(Request(text="a", media=(Attached(kind="picture"),)), [[shades(1)]])
    before = language.logits(read)
    adapters.hang(language)
    adapters.merge_into(other)
    assert not torch.allclose(language.logits(read), before, atol=1e-2)
    torch.testing.assert_close(other.logits(read), language.logits(read), atol=1e-4, rtol=1e-4)
    other.save(tmp_path / "merged")
    opened = Language.load(tmp_path / "merged")
    torch.testing.assert_close(opened.logits(read), other.logits(read), atol=1e-5, rtol=1e-5)
    assert opened.tokenizer.convert_tokens_to_ids("<CFI>") == other.tokenizer.convert_tokens_to_ids("<CFI>")


EVERY = ["--no-bf16", "--save-every", "2", "--log-every", "1", "--stages.0.steps", "4"]
STEPS = ["--stages.0.optim.warmup", "1", "--stages.0.optim.lr", "0.05"]
PLANNING = ["--lora-rank", "2", "--requests-per-step", "4", "--workers", "0"]
JOINING = ["--data.pictures-per-step", "2", "--data.resolutions", "32", "--data.workers", "0"]
SMALL = ["--data.validation", "0", "--hidden", "16", "--positions", "12", "--tokens", "3"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(("red", "green", "blue", "white") * 2):
        Image.new("RGB", (32, 32), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} square")
    assert main(["data", "index", str(folder)]) == 0
    return folder


def contents(*folders):
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_planner_learns_through_adapters_and_is_exported_whole(models, tmp_path, capsys):
    start = models / "over-seeing"
    frozen = contents(models / "seeing", models / "wan")
    run, out = tmp_path / "run", tmp_path / "model"
    command = ["train", "unison-planner", "-o", str(run), "--start", str(start), "--sample-every", "2"]
    assert main([*command, *EVERY, *STEPS, *PLANNING]) == 0
    assert main(["export", str(run), "-o", str(out)]) == 0
    assert contents(models / "seeing", models / "wan") == frozen
    old, new = Language.load(models / "seeing"), Language.load(out / "planner")
    for name, tensor in old.model.state_dict().items():
        # rows behind the old words were nobody's, and are new tokens' now
        count = len(old.tokenizer) if "embed_tokens" in name or "lm_head" in name else len(tensor)
        same = torch.equal(new.model.state_dict()[name][:count], tensor[:count])
        assert same != ("language_model.layers" in name and "proj.weight" in name), name
    losses = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert any("validation" in line for line in losses)
    assert "unison-planner" in card(out)["name"]
    assert (
        main(["plan", "a red square", "--task", "text-to-image", "--prompt", "x", "--model", str(out)]) == 0
    )


@pytest.fixture(scope="module")
def joined(models, pictures, tmp_path_factory):
    """A run of the projector that has ended, and what it left of planner and generator."""
    run = tmp_path_factory.mktemp("joined") / "run"
    before = contents(models / "plain", models / "wan")
    command = ["train", "unison-projector", "-o", str(run), "--start", str(models / "over-plain")]
    assert main([*command, "--pictures", str(pictures), *EVERY, *STEPS, *JOINING, *SMALL]) == 0
    return run, before


def test_the_projector_alone_learns(models, joined, tmp_path):
    from diptych.systems.registry import read_run

    run, before = joined
    family, config = read_run(run)
    job = family.job(config, tmp_path, open_system)
    parts = {"planner": job.language.model, "generator": job.generator.model, "text": job.generator.encoder}
    parts["space"] = job.generator.space.model
    was = {
        f"{part}.{name}": tensor.clone()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    fresh = dict(job.starting_values())
    from diptych.training.trainer import Trainer

    trainer = Trainer(job, tmp_path, quiet=True)
    trainer.train()
    assert all(not torch.equal(fresh[name], value) for name, value in trainer.model.named_parameters())
    for part, module in parts.items():
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, was[f"{part}.{name}"]), (part, name)
        assert all(parameter.grad is None for parameter in module.parameters())
    assert contents(models / "plain", models / "wan") == before


def test_a_run_that_was_stopped_ends_as_one_that_was_not(joined, models, pictures, tmp_path):
    from diptych.systems.registry import read_run
    from diptych.training.trainer import Trainer

    run, _ = joined
    family, config = read_run(run)
    stopped = Trainer(family.job(config, tmp_path, open_system), tmp_path, quiet=True)
    told = stopped.log.step

    def tell(number, *rest):
        told(number, *rest)
        stopped.asked_to_stop = number == 1

    stopped.log.step = tell
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = train(family, config, tmp_path, open_system, quiet=True).model
    straight = family.job(config, run, open_system)
    again = train(family, config, run, open_system, quiet=True).model
    assert straight.start is None
    for (name, one), (_, other) in zip(resumed.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_an_exported_projector_tells_the_generator_of_the_prompt(joined, models, tmp_path):
    run, _ = joined
    out = tmp_path / "deep" / "model"
    assert main(["export", str(run), "-o", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "card.json",
        "projector.safetensors",
        "unison.json",
    ]
    system = open_system(out)
    carrier = system.carrier(Task.TEXT_TO_IMAGE)
    (condition,) = (carrier.read([Prompt("a cat")], [Stack(32, 32)]),)
    bare = carrier.generator.read([Prompt("a cat")], [Stack(32, 32)])
    assert len(condition.text[0]) == len(bare.text[0]) + 3
    states = system.language.states("a cat")
    torch.testing.assert_close(condition.text[0][-3:], system.projector(states)[0])
    assert not system.projector.training


def test_a_generator_that_takes_nothing_behind_its_text_is_refused(joined, models, tmp_path):
    run, _ = joined
    assert main(["export", str(run), "-o", str(models / "for-pictures")]) == 0
    told = json.loads((models / "for-pictures" / "unison.json").read_text())
    told["generators"] = [{"model": "default", "projected": True}]
    (models / "for-pictures" / "unison.json").write_text(json.dumps(told))
    (models / "for-pictures" / "card.json").unlink()
    with pytest.raises(ModelFolderError, match="takes nothing behind its text"):
        open_system(models / "for-pictures").carrier(Task.TEXT_TO_IMAGE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "needs a model to start from"),
        (["--start", "default"], "has no unison.json"),
        (["--start", "over-plain"], "needs --pictures"),
        (["--start", "unmarked"], "no generator is marked as projected"),
    ],
)
def test_a_run_that_lacks_something_says_what(models, tmp_path, monkeypatch, capsys, arguments, says):
    tiny_unison.compose(models / "unmarked", "../plain", [{"model": "../wan"}])
    monkeypatch.chdir(models)
    assert main(["train", "unison-projector", "-o", str(tmp_path / "run"), *arguments]) != 0
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_planner_without_a_chat_template_is_refused(models, tmp_path):
    import shutil

    shutil.copytree(models / "plain", tmp_path / "planner")
    (tmp_path / "planner" / "chat_template.jinja").unlink(missing_ok=True)
    path = tmp_path / "planner" / "tokenizer_config.json"
    told = json.loads(path.read_text())
    told.pop("chat_template", None)
    path.write_text(json.dumps(told))
    with pytest.raises(ModelFolderError, match="no chat template"):
        Language.load(tmp_path / "planner")


def test_a_planner_of_another_size_than_its_config_is_refused(models, tmp_path):
    import shutil

    shutil.copytree(models / "seeing", tmp_path / "planner")
    path = tmp_path / "planner" / "config.json"
    told = json.loads(path.read_text())
    told["text_config"]["intermediate_size"] = 48
    path.write_text(json.dumps(told))
    with pytest.raises(ModelFolderError, match="sizes"):
        Language.load(tmp_path / "planner")
