"""What curation finds of planted noise, and how many pictures a second it looks at.

python benchmarks/curation.py encoder FOLDER --steps 800      a small CLIP, trained on clean pairs apart
python benchmarks/curation.py noise FOLDER --encoder FOLDER    precision and recall by stage
python benchmarks/curation.py speed FOLDER --encoder FOLDER    pictures a second, and peers that are installed
python benchmarks/curation.py paper COSTS.json                 hours, disk and workers for 30 million rows
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from diptych.curation.align import Alignment
from diptych.curation.breadth import Breadth
from diptych.curation.cluster import Cluster
from diptych.curation.duplicates import Duplicates
from diptych.curation.embed import Embed
from diptych.curation.engine import Run, curate
from diptych.curation.hashes import Prints
from diptych.curation.pool import ProcessPool
from diptych.curation.probe import Probe
from diptych.curation.recipes import Recipe
from diptych.curation.text import Text
from diptych.worlds.emoji.captions import caption, sample_wanted
from diptych.worlds.emoji.scene import BACKGROUNDS, EmojiWorld, Wanted, WorldConfig

CLUSTERS = 24
REPEATED = Wanted((("cat", 1),))
PAIRS, HELD = 4000, 400
"""Clean pairs that the encoder learns from, and those of them that its threshold is found on."""
KINDS = ("wrong caption", "duplicate", "blurred", "repeated")


def asked(world: EmojiWorld, rng: np.random.Generator, wanted: Wanted | None = None) -> Wanted:
    """What a picture is to show, on a background by chance."""
    if wanted is None:
        wanted = sample_wanted(world, ("single", "two", "counting")[int(rng.integers(3))], rng)
    background = list(BACKGROUNDS)[int(rng.integers(len(BACKGROUNDS)))]
    return Wanted(wanted.counts, wanted.relation, background)


def pair(
    world: EmojiWorld, rng: np.random.Generator, wanted: Wanted | None = None
) -> tuple[np.ndarray, Wanted]:
    """A picture and what it shows."""
    wanted = asked(world, rng, wanted)
    return world.render(world.scene_for(wanted, rng)), wanted


def world() -> EmojiWorld:
    return EmojiWorld(WorldConfig(objects="few", size=96, lattice=1))


def train(folder: Path, steps: int, seed: int) -> None:
    """A CLIP of a million parameters on clean pairs, none of which the noisy heap holds; goes on where it
    stopped. Leaves in `least.json` the likeness that tells right captions from wrong ones best, found on
    further clean pairs."""
    import torch
    from transformers import CLIPImageProcessor, CLIPProcessor

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    place = world()
    pixels, told = _clean(folder / "clean.npz", place, seed, PAIRS)
    tokenizer = _tokenizer({word for text in told for word in text.split()})
    model = _clip(len(tokenizer))
    images = CLIPImageProcessor(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96})
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (images.image_mean, images.image_std))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    state, first = folder / "training.pt", 0
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        first = kept["step"]
    plan = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=2e-3, total_steps=steps, pct_start=0.1, last_epoch=first - 1
    )
    began = time.perf_counter()
    learnt = len(told) - HELD
    for step in range(first, steps):
        rng = np.random.default_rng([seed, 3, step])
        rows = rng.integers(0, learnt, 64)
        # the backgrounds are plain: shifted around its rim, a picture shows the same
        shown = np.stack([np.roll(pixels[row], rng.integers(-40, 41, 2), (0, 1)) for row in rows])
        given = tokenizer([told[row] for row in rows], return_tensors="pt", padding=True)
        out = model(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            pixel_values=(torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255 - mean) / deviation,
        )
        # equal captions are no negatives of one another
        same = torch.tensor([[told[a] == told[b] for b in rows] for a in rows]).float()
        target = same / same.sum(1, keepdim=True)
        loss = -sum(
            (target * torch.log_softmax(logits, 1)).sum(1).mean()
            for logits in (out.logits_per_image, out.logits_per_text)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        plan.step()
        if step % 50 == 49 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - began:.0f} s", flush=True)
            kept = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            torch.save(kept, state)
    model.save_pretrained(folder)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    _calibrate(folder, pixels[learnt:], told[learnt:], seed)


def _clean(path: Path, place: EmojiWorld, seed: int, count: int) -> tuple[np.ndarray, list[str]]:
    if not path.is_file():
        rng = np.random.default_rng([seed, 1])
        drawn = [pair(place, rng) for _ in range(count)]
        captions = [caption(place, wanted) for _, wanted in drawn]
        np.savez(path, pixels=np.stack([pixels for pixels, _ in drawn]), captions=np.array(captions))
    with np.load(path) as kept:
        return kept["pixels"], kept["captions"].tolist()


def _tokenizer(words: set[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: n for n, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *sorted(words)])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=24, **marks)


def _clip(words: int) -> Any:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    small = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
    ends = {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    text = CLIPTextConfig(vocab_size=words, max_position_embeddings=24, num_hidden_layers=1, **ends, **small)
    vision = CLIPVisionConfig(image_size=96, patch_size=12, num_hidden_layers=3, **small)
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)
    )


def _calibrate(folder: Path, pixels: np.ndarray, told: list[str], seed: int) -> None:
    """The threshold of least mistakes on clean pairs, a third of them with the caption of another."""
    from diptych.curation.embed import Encoder

    encoder = Encoder(str(folder), "cpu")
    pictures, texts = encoder.pictures(list(pixels)), encoder.texts(told)
    right = (pictures * texts).sum(1)
    other = np.random.default_rng([seed, 4]).permutation(len(told))
    apart = np.array([a != told[b] for a, b in zip(told, other, strict=True)])
    wrong = (pictures * texts[other]).sum(1)[apart]
    tried = np.linspace(-0.2, 0.9, 111)
    mistakes = [2 * (right < least).mean() + (wrong >= least).mean() for least in tried]
    least = round(float(tried[int(np.argmin(mistakes))]), 3)
    (folder / "least.json").write_text(json.dumps({"least": least}))
    missed, passed = (right < least).mean(), (wrong >= least).mean()
    print(f"least {least}: {missed:.3f} of right captions go, {passed:.3f} of wrong ones stay")


class Planted(NamedTuple):
    kind: str
    """Of KINDS; '' for what is as it should be."""
    shows: str
    """The true caption."""


def plant(folder: Path, count: int, seed: int) -> dict[str, Planted]:
    """A noisy heap: 30 % wrong captions, 20 % duplicates, 10 % blurred, 10 % of one class. Returns what was
    planted, by file."""
    place, rng = world(), np.random.default_rng([seed, 2])
    folder.mkdir(parents=True, exist_ok=True)
    planted: dict[str, Planted] = {}
    for n in range(count):
        name, kind = f"{n:05d}", str(rng.choice([*KINDS, ""], p=[0.3, 0.2, 0.1, 0.1, 0.3]))
        pixels, wanted = pair(place, rng, REPEATED if kind == "repeated" else None)
        told, image = wanted, Image.fromarray(pixels).resize((192, 192), Image.Resampling.BICUBIC)
        shows = caption(place, wanted)
        if kind == "wrong caption":
            while {kind for kind, _ in told.counts} & {kind for kind, _ in wanted.counts}:
                told = asked(place, rng)
        if kind == "blurred":
            image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(3, 6))))
        _save(folder, name, image, caption(place, told))
        if kind == "duplicate":
            # the copy counts, and its original stays
            copied, ending = _copy(image, rng)
            planted[f"{name}-copy{ending}"] = Planted(kind, shows)
            _save(folder, f"{name}-copy", copied, shows, ending)
            kind = ""
        planted[f"{name}.png"] = Planted(kind, shows)
    return planted


def _copy(image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, str]:
    way = int(rng.integers(4))
    if way == 0:
        return image, ".jpg"
    if way == 1:
        edge = int(rng.integers(4, 14))
        return image.crop((edge, edge // 2, 192 - edge // 2, 192 - edge)), ".png"
    if way == 2:
        return ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(0.85)).enhance(1.3), ".png"
    framed = Image.new("RGB", (224, 224), "white")
    framed.paste(image, (16, 16))
    return framed, ".png"


def _save(folder: Path, name: str, image: Image.Image, text: str, ending: str = ".png") -> None:
    image.save(folder / f"{name}{ending}", **({"quality": 80} if ending == ".jpg" else {}))
    (folder / f"{name}.txt").write_text(text)


def noise(folder: Path, encoder: Path, count: int, seed: int) -> None:
    """Precision and recall of each stage for what it is there to find."""
    planted = plant(folder / "heap", count, seed)
    least, cap = json.loads((encoder / "least.json").read_text())["least"], count // CLUSTERS
    stages = [
        Probe(),
        Text(),
        Prints(),
        Embed(folder=str(encoder)),
        Alignment(folder=str(encoder), min=least),
        Duplicates(),
        Cluster(vectors="embed.vector", clusters=CLUSTERS),
        Breadth(cap=cap),
    ]
    run = _curated(stages, folder)
    view, made = run.decisions()
    ids = view.strings("id").tolist()
    kinds = np.array([planted[name].kind for name in ids], dtype=object)
    print("| planted | stage | came | gone | precision | recall |\n|---|---|---|---|---|---|")

    def told(kind: str, stage: str, right: np.ndarray, of: int) -> None:
        gone = made.stage == made.stages.index(stage)
        hits = int((gone & right).sum())
        parts = [_share(hits, int(gone.sum())), _share(min(hits, of), of)]
        print(f"| {kind} | {stage} | {of} | {int(gone.sum())} | {' | '.join(parts)} |")

    def came(stage: str) -> np.ndarray:
        """A row that an earlier stage let go could not be found here."""
        return made.kept | (made.stage >= made.stages.index(stage))

    for kind, stage in (("blurred", "probe"), ("wrong caption", "alignment")):
        told(kind, stage, kinds == kind, int(((kinds == kind) & came(stage)).sum()))
    # of a picture and its copy either may be the better one
    of = view["duplicates.of"].astype(int)
    twin = np.array([n >= 0 and ids[n][:5] == name[:5] for name, n in zip(ids, of, strict=True)])
    there = {name[:5] for name, here in zip(ids, came("duplicates"), strict=True) if here and "copy" in name}
    both = sum(
        here and "copy" not in i and i[:5] in there for i, here in zip(ids, came("duplicates"), strict=True)
    )
    told("duplicate", "duplicates", twin, both)
    shows = [planted[name].shows for name in ids]
    moved = np.array([n >= 0 and shows[n] == shown for shown, n in zip(shows, of, strict=True)])
    told("duplicate, or the same things moved", "duplicates", twin | moved, both + int((moved & ~twin).sum()))
    # what is over the cap is too much; which of them go is as good as any
    repeated = np.array([shown.startswith("a cat on") for shown in shows])
    told("repeated", "breadth", repeated, max(0, int((repeated & came("breadth")).sum()) - cap))
    left = np.flatnonzero(made.kept)
    shares = {kind or "clean": round(float((kinds[left] == kind).mean()), 3) for kind in (*KINDS, "")}
    print(f"kept {len(left)} of {len(ids)}: {shares}")


def _share(hits: int, of: int) -> str:
    """With Wilson's interval of 95 %."""
    if not of:
        return ""
    share, z = hits / of, 1.96
    middle, away = share + z * z / (2 * of), z * (share * (1 - share) / of + z * z / (4 * of * of)) ** 0.5
    low, high = ((middle + sign * away) / (1 + z * z / of) for sign in (-1, 1))
    return f"{share:.3f} ({low:.2f} to {high:.2f})"


def _curated(stages: list[Any], folder: Path, name: str = "out", workers: int = 2) -> Run:
    out = folder / name
    pool = ProcessPool(workers, out=out)
    try:
        return curate(Recipe("benchmark", {}, stages), folder / "heap", out, pool)
    finally:
        pool.close()


def speed(folder: Path, encoder: Path, count: int, seed: int, rounds: int) -> None:
    """Decode, probe, hash and embed with one encoder: ours, and a pool that keeps no records."""
    if not (folder / "heap").is_dir():
        plant(folder / "heap", count, seed)
    files = sorted(p for p in (folder / "heap").iterdir() if p.suffix in (".png", ".jpg"))
    ways: dict[str, Callable[[int], None]] = {
        "diptych": lambda n: _ours(folder, encoder, f"speed-{n}"),
        "plain pool": lambda n: _plain(files, encoder),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(rounds):
        # in turns: what else the machine does meets both alike
        for name, way in ways.items():
            began = time.perf_counter()
            way(n)
            found[name].append(len(files) / (time.perf_counter() - began))
    for name, rates in found.items():
        print(f"{name}: {np.median(rates):.1f} pictures/s ({min(rates):.1f} to {max(rates):.1f})")
    ratios = np.array(found["diptych"]) / np.array(found["plain pool"])
    print(f"ratio {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")


def _ours(folder: Path, encoder: Path, name: str) -> None:
    _curated([Probe(min_side=1, min_sharpness=None), Prints(), Embed(folder=str(encoder))], folder, name)


def _plain(files: list[Path], encoder: Path) -> None:
    from multiprocessing import get_context

    parts = [files[at : at + 128] for at in range(0, len(files), 128)]
    with get_context("spawn").Pool(2, _begin, (str(encoder),)) as pool:
        for _ in pool.imap_unordered(_looked, parts):
            pass


_LOADED: dict[str, Any] = {}


def _begin(encoder: str) -> None:
    from diptych.curation.stage import Shared

    stages = [Probe(), Prints(), Embed(folder=encoder)]
    shared = Shared()
    _LOADED["stages"] = [(stage, stage.load(shared)) for stage in stages]


def _looked(files: list[Path]) -> int:
    import hashlib

    from diptych.curation.decode import Seen
    from diptych.curation.stage import Batch

    seen = []
    for path in files:
        data = path.read_bytes()
        hashlib.sha256(data).digest()
        picture = Seen(data)
        seen.append([stage.look(picture, loaded) for stage, loaded in _LOADED["stages"]])
    for at, (stage, loaded) in enumerate(_LOADED["stages"]):
        batch = Batch([path.name for path in files], {})
        batch.looked = [row[at] for row in seen]
        stage.compute(batch, loaded)
    return len(files)


def paper(costs: Path, rows: int, workers: int) -> None:
    """What a run's measured costs mean for so many rows."""
    told = json.loads(costs.read_text())
    total = 0.0
    print("| stage | ms a row | hours of one worker | hours of all |\n|---|---|---|---|")
    for name, cost in told.items():
        each = cost["seconds"] / max(1, cost["rows"])
        total += each
        hours = each * rows / 3600
        print(f"| {name} | {1000 * each:.2f} | {hours:,.0f} | {hours / workers:,.1f} |")
    hours = total * rows / 3600
    print(f"| all | {1000 * total:.2f} | {hours:,.0f} | {hours / workers:,.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("encoder", "noise", "speed", "paper"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=30_000_000)
    parser.add_argument("--workers", type=int, default=64)
    given = parser.parse_args()
    if given.what == "encoder":
        train(given.folder, given.steps, given.seed)
    elif given.what == "noise":
        noise(given.folder, given.encoder, given.count, given.seed)
    elif given.what == "speed":
        speed(given.folder, given.encoder, given.count, given.seed, given.rounds)
    else:
        paper(given.folder, given.rows, given.workers)


if __name__ == "__main__":
    main()
