"""Near-duplicates among pictures of a folder: planted copies that are found, and others taken for such.

python benchmarks/curation_copies.py fit PICTURES WORK      weights of likeness, from half of the pictures
python benchmarks/curation_copies.py test PICTURES WORK     recall and precision on the other half

Every picture is cropped, encoded, recoloured and bordered; each copy is looked for among the pictures.
Precision is that of a heap in which a fifth of the pictures have one copy. Prints are kept in WORK.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from diptych.curation.alike import GLANCE, Prepared, at_a_glance, descriptors, evidence, likeness
from diptych.curation.decode import Seen
from diptych.curation.duplicates import near_pairs
from diptych.curation.hashes import printed

KINDS = ("crop", "encoding", "colour", "border")
COPIED = 0.2
"""Share of pictures with a copy in the heap whose precision is told."""
WANTED, ENOUGH = 0.99, 0.645
"""Precision, and the likeness at which it is reached where the weights are from: a little less than the 0.7
from which copies are told, as other pictures are others."""


class Heap(NamedTuple):
    """Pictures of one half, and their copies."""

    names: np.ndarray
    prints: Prepared
    of: np.ndarray
    """Number of the picture."""
    kind: np.ndarray
    """Of a copy, among KINDS; -1 for a picture."""


class Pairs(NamedTuple):
    """What is compared in a heap: (picture, copy) that were planted, and others that look alike."""

    planted: np.ndarray
    kinds: np.ndarray
    near: np.ndarray
    """Whether a planted pair would be compared at all."""
    others: np.ndarray
    copies: np.ndarray
    """Whether one of another pair is a copy."""


def encoded(image: Image.Image, form: str = "PNG", **how: int) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def copied(image: Image.Image, kind: str, rng: np.random.Generator) -> bytes:
    width, height = image.size
    if kind == "crop":
        wide, high = rng.uniform(0.82, 0.96, 2)
        left, top = int(rng.uniform(0, width * (1 - wide))), int(rng.uniform(0, height * (1 - high)))
        return encoded(image.crop((left, top, left + int(width * wide), top + int(height * high))))
    if kind == "encoding":
        share = rng.uniform(0.5, 1.5)
        image = image.resize((int(width * share), int(height * share)), Image.Resampling.BICUBIC)
        return encoded(image, "JPEG" if rng.random() < 0.5 else "WEBP", quality=int(rng.integers(30, 86)))
    if kind == "colour":
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(float(rng.uniform(0.8, 1.2)))
        return encoded(image)
    left, top, right, bottom = (int(v) for v in rng.integers(int(width * 0.03), int(width * 0.15) + 1, 4))
    colour = rng.choice([[255] * 3, [0] * 3, list(rng.integers(0, 256, 3))])
    framed = Image.new("RGB", (width + left + right, height + top + bottom), tuple(int(v) for v in colour))
    framed.paste(image, (left, top))
    return encoded(framed)


def heap(folder: Path, work: Path, half: int, every: int) -> Heap:
    """`every`: of so many pictures one is copied."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".webp"))
    mine = [(n, p) for n, p in enumerate(files) if hashlib.sha256(p.stem.encode()).digest()[0] % 2 == half]
    kept = work / f"prints-{half}.npz"
    if not kept.is_file():
        work.mkdir(parents=True, exist_ok=True)
        rows = []
        for number, path in mine:
            image, rng = Image.open(path).convert("RGB"), np.random.default_rng([7, number])
            copies = [copied(image, kind, rng) for kind in KINDS]
            for kind, data in enumerate([path.read_bytes(), *copies], -1):
                seen = Seen(data)
                rows.append((printed(seen.small), printed(seen.inner), number, kind))
        whole, inner, of, kind = (np.array(column) for column in zip(*rows, strict=True))
        np.savez(kept, whole=whole, inner=inner, of=of, kind=kind)
    with np.load(kept) as told:
        # the same pixels under two names are one picture
        pictures = told["kind"] < 0
        flat = told["whole"][pictures].reshape(pictures.sum(), -1)
        _, first = np.unique(flat, axis=0, return_index=True)
        there = np.isin(told["of"], told["of"][pictures][first])
        there &= pictures | (told["of"] // 2 % every == 0)
        names, of = np.array([path.stem for path in files]), told["of"][there]
        prints = Prepared(told["whole"][there], told["inner"][there])
        return Heap(names, prints, of, told["kind"][there])


def pairs(made: Heap) -> Pairs:
    rows, pictures = np.arange(len(made.of)), np.flatnonzero(made.kind < 0)
    found = np.unique(
        np.concatenate([near_pairs(descriptors(side), rows, pictures) for side in made.prints]), axis=0
    )
    found = found[(made.kind[found] < 0).any(1)]
    same = made.of[found[:, 0]] == made.of[found[:, 1]]
    picture_of = dict(zip(made.of[pictures].tolist(), pictures.tolist(), strict=True))
    copies = np.flatnonzero(made.kind >= 0)
    planted = np.sort([[picture_of[made.of[row]], row] for row in copies.tolist()], axis=1)
    compared = set(map(tuple, found[same].tolist()))
    near = np.array([tuple(pair) in compared for pair in planted.tolist()])
    others = found[~same]
    return Pairs(planted, made.kind[copies], near, others, (made.kind[others] >= 0).any(1))


def in_parts(
    function: Callable[[Prepared, Prepared, np.ndarray], np.ndarray], prints: Prepared, asked: np.ndarray
) -> np.ndarray:
    return np.concatenate(
        [function(prints, prints, asked[at : at + 256]) for at in range(0, len(asked), 256)]
    )


def precision(recall: float, pictures: float, copies: int, others: int, planted: int) -> float:
    """Of a heap in which a share COPIED of the pictures have a copy; `others`: pairs of pictures that are
    taken for copies, `copies`: pairs of a copy and another picture, of `planted` copies."""
    right = COPIED * pictures * recall
    wrong = others + copies * COPIED * pictures / planted
    return right / max(1e-9, right + wrong)


def fit(made: Heap, asked: Pairs) -> None:
    """Logistic regression by Newton's steps; its constant such that precision reaches WANTED at ENOUGH."""
    sure = asked.planted[asked.near & (in_parts(at_a_glance, made.prints, asked.planted) < GLANCE)]
    worth = in_parts(at_a_glance, made.prints, asked.others) < GLANCE
    known = np.concatenate([in_parts(evidence, made.prints, p) for p in (sure, asked.others[worth])])
    known = np.concatenate([known, np.ones_like(known[:, :1])], axis=1).astype(np.float64)
    truth = np.arange(len(known)) < len(sure)
    weights = np.zeros(known.shape[1])
    for _ in range(30):
        likely = 1 / (1 + np.exp(-np.clip(known @ weights, -30, 30)))
        slope = known.T @ (likely - truth)
        curve = (known * (likely * (1 - likely))[:, None]).T @ known
        # hues are small numbers, and the constant is free
        weights -= np.linalg.solve(curve + np.diag([0.1] * 4 + [0.001] * 2), slope)
    score = known @ weights
    from_copies, count = asked.copies[worth], int((made.kind < 0).sum())
    for least in np.sort(score[: len(sure)]):
        wrong = score[len(sure) :] >= least
        told = (wrong & from_copies).sum(), (wrong & ~from_copies).sum()
        recall = float((score[: len(sure)] >= least).sum() / len(asked.planted))
        if precision(recall, count, *told, len(asked.planted)) >= WANTED:
            break
    weights[-1] += np.log(ENOUGH / (1 - ENOUGH)) - least
    print(f"weights {np.round(weights, 2).tolist()}: recall {recall:.3f} on what they are from")


def test(made: Heap, asked: Pairs) -> None:
    found = in_parts(likeness, made.prints, asked.planted) * asked.near
    taken = in_parts(likeness, made.prints, asked.others)
    count, of = int((made.kind < 0).sum()), made.of[asked.planted[:, 0]]
    print(f"{count} pictures, {len(found)} copies")
    print("| least | recall | " + " | ".join(KINDS) + " | precision |")
    print("|---|---|" + "---|" * (len(KINDS) + 1))
    rng = np.random.default_rng(0)
    for least in (0.5, 0.6, 0.7, 0.8, 0.9):
        right, wrong = found >= least, taken >= least
        by_kind = " | ".join(f"{right[asked.kinds == n].mean():.3f}" for n in range(len(KINDS)))
        told = (wrong & asked.copies).sum(), (wrong & ~asked.copies).sum()
        recall = float(right.mean())
        exact = precision(recall, count, *told, len(found))
        # pictures drawn with replacement, as the four copies of one are no four witnesses
        by_picture = np.bincount(of, right)[np.unique(of)] / np.bincount(of)[np.unique(of)]
        drawn = rng.choice(by_picture, (1000, len(by_picture))).mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        print(f"| {least} | {recall:.3f} ({low:.3f} to {high:.3f}) | {by_kind} | {exact:.4f} |")
    worst = np.argsort(-taken)[:12]
    for pair, score in zip(asked.others[worst], taken[worst], strict=True):
        print(f"taken for copies: {', '.join(made.names[made.of[pair]])} ({score:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("fit", "test"))
    parser.add_argument("pictures", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    half = 0 if given.what == "fit" else 1
    made = heap(given.pictures, given.work, half, given.every)
    (fit if given.what == "fit" else test)(made, pairs(made))


if __name__ == "__main__":
    main()
