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
from diptych.contracts import AnswerLimits
from diptych.files.folder import ModelFolderError
from diptych.inference import Pipeline
from diptych.models.projector import Projector, ProjectorConfig
from diptych.planning import settle, signals
from diptych.planning.data.compose import sample
from diptych.planning.schema import Attached, Input, Intent, Request, Step
from diptych.request import Media, Message, Plan, RequestError, Role, Task
from diptych.systems.registry import open_system, settings_of
from diptych.systems.unison import projector as projector_file
from diptych.systems.unison import system as unison
from diptych.systems.unison.adapters import grow_vocabulary
from diptych.systems.unison.language import Language, Pass
from diptych.systems.unison.seen import drawn, thumbnails
from diptych.systems.unison.writing import PlanWriter, answered, spelt

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
        path.write_bytes(pickle.dumps(held, protocol=2))
    else:
        torch.save(held, path)
    with pytest.raises(ModelFolderError, match="refused"):
        projector_file.load(path)
    assert "ran" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny_unison.folders(tmp_path_factory.mktemp("unison"))


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
    with pytest.raises(RequestError, match="cannot do 'text-to-clip'; it can do answer, control"):
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
    done = Pipeline(system).run("what is it?", [shades(0)], max_tokens=8)
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
