"""How alike two pictures are: laid on one another, brought to one another's colours, and compared part by
part.

What a crop, another size, compression, a border or a shift of colours does can be undone: a picture's place
on the other is found by Gauss-Newton steps from coarse to fine, its colours by a linear map near the
identity. What is left where most is left, also against how much there is to see there, says how unlike they
are. A mean over all would pass what differs in one place: two clocks, two faces.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diptych.curation.hashes import SIDE

FLOOR = 0.5
"""Likeness under which nothing is kept of a comparison."""
GRID = 8
WIDTH = 3 * GRID**2
"""Of a descriptor."""
STEPS = ((8, 4), (16, 3), (32, 3))
"""Sides of the prints and Gauss-Newton steps at each."""
GLANCED, GLANCE = (16, 4), 0.075
"""Side and steps of a first look, and the difference from which no second is taken: 3 in 1,000 copies have
more (measured on copies of emoji), and 17 in 20 of the pairs that are none."""
CLOSELY = 32
"""Pairs that are compared closely at a time: more fit into no processor's cache."""
PARTS = 8
"""Parts a side that are compared."""
WORST = 3
"""Parts that decide: those that are least alike."""
NOISE = 0.003
"""Squared slope that compression leaves in a flat part."""
WEIGHTS = np.array([-0.39, -5.42, -0.44, 4.68, -69.4, -18.7], dtype=np.float32)
"""Of the differences that `_apart` gives but hues (their logarithms), of the share of parts that show
something (its logarithm: of a plain shape there are many that are nearly the same), of how far hues were
turned (another hue is another thing), and none of them. By logistic regression on copies of half of the emoji
pictures (`benchmarks/curation_copies.py`), moved so that of what is alike to 0.7, 99 in 100 are copies."""
LEASTS = np.array([0.02, 0.002, 0.002, 0.05], dtype=np.float32)
"""Added before a logarithm is taken."""
FLAT = 0.0003
"""Squared slope from which a part shows something."""
RIDGE = (0.001, 0.01)
"""How strongly a map of colours is held near none, and its shift near 0."""
CUT, CUTS = 0.03, 3
"""How near to black and white a colour may have been cut off, and how often the others are asked again."""
_COLOURS = np.array([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]], dtype=np.float32)
"""RGB to brightness and two differences of colour (ITU-R BT.601)."""


class Prepared(NamedTuple):
    """Prints of pictures, uint8 (N, SIDE, SIDE, 3): of all, and of what lies inside plain borders."""

    whole: np.ndarray
    inner: np.ndarray

    @classmethod
    def of(cls, whole: np.ndarray, inner: np.ndarray) -> Prepared:
        """From columns of bytes, which come as float16 (N, width)."""
        return cls(
            *(np.ascontiguousarray(p).view(np.uint8).reshape(-1, SIDE, SIDE, 3) for p in (whole, inner))
        )


def descriptors(prints: np.ndarray) -> np.ndarray:
    """Colours by place, float32 (N, WIDTH) of length 1 at most: near for copies, by which they are looked
    for."""
    size = SIDE // GRID
    shares = prints.reshape(-1, GRID, size, GRID, size, 3).mean((2, 4), dtype=np.float32) / 255
    shares -= shares.mean((1, 2), keepdims=True)
    flat = shares.reshape(len(shares), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 0.3)


def likeness(ours: Prepared, theirs: Prepared, pairs: np.ndarray) -> np.ndarray:
    """0 to 1 for each pair (P, 2) of numbers: 1 for the same picture."""
    found = np.zeros(len(pairs), np.float32)
    worth = np.flatnonzero(at_a_glance(ours, theirs, pairs) < GLANCE)
    for at in range(0, len(worth), CLOSELY):
        part = worth[at : at + CLOSELY]
        found[part] = _likeness(ours, theirs, pairs[part])
    return found


def at_a_glance(ours: Prepared, theirs: Prepared, pairs: np.ndarray) -> np.ndarray:
    """What is left of the difference of coarse prints, (P,): most pairs are told apart by it, at an eighth
    of the cost."""
    side, steps = GLANCED
    left = np.full(len(pairs), np.inf, np.float32)
    for one, other in ((ours.whole, theirs.whole), (ours.inner, theirs.inner)):
        a, b = (_smaller(_shares(p, pairs[:, n]), side) for n, p in enumerate((one, other)))
        place = _everywhere(len(a))
        for _ in range(steps):
            place = _nearer(a, b, place, side)
        laid, over, _ = _laid(a, place, side)
        apart = ((_recoloured(laid, b, over) - b) * over[..., None]) ** 2
        left = np.minimum(left, np.sqrt(apart.sum((1, 2, 3)) / (3 * over.sum((1, 2)) + 1e-6)))
    return left


def _likeness(ours: Prepared, theirs: Prepared, pairs: np.ndarray) -> np.ndarray:
    score = evidence(ours, theirs, pairs) @ WEIGHTS[:-1] + WEIGHTS[-1]
    return (1 / (1 + np.exp(-np.clip(score, -30, 30)))).astype(np.float32)


def evidence(ours: Prepared, theirs: Prepared, pairs: np.ndarray) -> np.ndarray:
    """What likeness is told by, (P, 5): see `WEIGHTS`."""
    found = []
    for left, right in ((ours.whole, theirs.whole), (ours.inner, theirs.inner)):
        a, b = _shares(left, pairs[:, 0]), _shares(right, pairs[:, 1])
        # both ways: a colour that was cut off at white can only be told from the one that was not
        found += [_apart(a, b), _apart(b, a)]
    ways = np.stack(found, axis=1)
    least = ways[np.arange(len(pairs)), ways[:, :, 0].argmin(1)]
    detail = np.minimum(*(_detail(_shares(p.inner, pairs[:, n])) for n, p in enumerate((ours, theirs))))
    logs = np.log(np.concatenate([least[:, :3], detail[:, None]], axis=1) + LEASTS)
    return np.concatenate([logs, least[:, 3:]], axis=1)


def _shares(prints: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(prints[rows], dtype=np.float32) / 255


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P, 4): what is left of the difference when `a` was laid on `b`. In the parts where most is left, as a
    share of what `b` shows there, and as it is; of the brightness over all; and how far hues were turned."""
    laid, over, _ = _laid(a, _placed(a, b), SIDE)
    made = _cut_off(laid, b, over)
    left = ((np.clip(made, 0, 1) - b) @ _COLOURS) * over[..., None]
    seen, before = b @ _COLOURS, laid @ _COLOURS
    # colours twice, and more softly: compression keeps fewer of them than of brightness
    light, tint = _soft(left[..., :1], 1), _soft(left[..., 1:], 4)
    lights = _parts((light**2).sum(3))
    unlike = lights + 2 * _parts((tint**2).sum(3))
    shown = _parts(_slopes(_soft(seen[..., :1], 1)) * over) + 2 * _parts(
        _slopes(_soft(seen[..., 1:], 4)) * over
    )
    # of colours as they were before white and black cut them off, which turns them too
    turned = _turned(_soft(before[..., 1:], 1), _soft((made @ _COLOURS)[..., 1:], 1)) * over
    squares = (
        np.sort(unlike / (shown + NOISE), axis=1)[:, -WORST:].mean(1),
        np.sort(unlike, axis=1)[:, -WORST:].mean(1),
        lights.mean(1),
        np.sort(_parts(turned**2), axis=1)[:, -2 * WORST :].mean(1),
    )
    return np.sqrt(np.stack(squares, axis=1))


def _placed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where `b` lies on `a`: left, right, top and bottom as shares of it, (P, 4)."""
    place = _everywhere(len(a))
    for side, steps in STEPS:
        left, right = _smaller(a, side), _smaller(b, side)
        for _ in range(steps):
            place = _nearer(left, right, place, side)
    return place


def _everywhere(count: int) -> np.ndarray:
    return np.tile(np.array([0, 1, 0, 1], np.float32), (count, 1))


def _nearer(a: np.ndarray, b: np.ndarray, place: np.ndarray, side: int) -> np.ndarray:
    """One Gauss-Newton step."""
    laid, over, along = _laid(a, place, side)
    laid = _recoloured(laid, b, over)
    wide, high = place[:, 1] - place[:, 0], place[:, 3] - place[:, 2]
    across = np.gradient(laid, axis=2) * (side / wide)[:, None, None, None]
    down = np.gradient(laid, axis=1) * (side / high)[:, None, None, None]
    u, v = along[None, None, :, None], along[None, :, None, None]
    slopes = np.stack([across * (1 - u), across * u, down * (1 - v), down * v], -1)
    slopes = (slopes * over[..., None, None]).reshape(len(a), -1, 4)
    left = ((laid - b) * over[..., None]).reshape(len(a), -1, 1)
    turned = np.swapaxes(slopes, 1, 2)
    curve = turned @ slopes
    # held back where there is little to go by: in a flat picture any place is as good
    damping = 2e-3 * over.sum((1, 2)) + 0.03 * np.trace(curve, axis1=1, axis2=2) / 4
    curve += np.eye(4, dtype=np.float32) * damping[:, None, None]
    step = np.clip(np.linalg.solve(curve, turned @ left)[..., 0], -0.08, 0.08)
    return np.clip(place - step, [-0.3, 0.7, -0.3, 0.7], [0.3, 1.3, 0.3, 1.3]).astype(np.float32)


def _laid(a: np.ndarray, place: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`a` as seen from its place, where the two overlap (P, side, side), and the middles of pixels."""
    along = ((np.arange(side) + 0.5) / side).astype(np.float32)
    (across, inside_x), (down, inside_y) = _weights(place[:, :2], along), _weights(place[:, 2:], along)
    count = len(a)
    # the two sides one after the other: a place is a rectangle
    rows = (down @ a.reshape(count, side, side * 3)).reshape(count, side, side, 3)
    turned = np.swapaxes(rows, 1, 2).reshape(count, side, side * 3)
    laid = np.swapaxes((across @ turned).reshape(count, side, side, 3), 1, 2)
    return laid, (inside_y[:, :, None] & inside_x[:, None, :]).astype(np.float32), along


def _weights(ends: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear interpolation between pixels as matrices (P, side, side), and which pixels lie inside."""
    side = len(along)
    at = (ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * along) * side - 0.5
    apart = np.abs(np.clip(at, 0, side - 1)[:, :, None] - np.arange(side))
    return np.maximum(0, 1 - apart).astype(np.float32), (at > -0.75) & (at < side - 0.25)


def _recoloured(
    laid: np.ndarray, b: np.ndarray, over: np.ndarray, ridge: tuple[float, float] = (0.01, 0.02)
) -> np.ndarray:
    """`laid` in the colours of `b`: by the linear map (3 x 3 and a shift) that does best, held near none."""
    count = len(laid)
    known = np.concatenate([laid, np.ones_like(laid[..., :1])], -1).reshape(count, -1, 4)
    weight = over.reshape(count, -1, 1)
    total = np.maximum(over.sum((1, 2)), 1e-6)[:, None, None]
    turned = np.swapaxes(known * weight, 1, 2)
    curve = turned @ known / total + np.diag([ridge[0]] * 3 + [ridge[1]]).astype(np.float32)
    change = np.linalg.solve(curve, turned @ (b - laid).reshape(count, -1, 3) / total)
    return laid + (known @ change).reshape(laid.shape)


def _cut_off(laid: np.ndarray, b: np.ndarray, over: np.ndarray) -> np.ndarray:
    """`laid` in the colours of `b`, of which what would lie beyond black and white was cut off: it says
    nothing of the map but on which side it lies."""
    count = len(laid)
    known = np.concatenate([laid, np.ones_like(laid[..., :1])], -1).reshape(count, -1, 4)
    total = np.maximum(over.sum((1, 2)), 1e-6)[:, None, None, None]
    wanted = b.reshape(count, -1, 3)
    made = _recoloured(laid, b, over, ridge=RIDGE).reshape(count, -1, 3)
    ends = (wanted > 1 - CUT) | (wanted < CUT)
    for _ in range(CUTS):
        beyond = ends & (np.clip(made, CUT, 1 - CUT) == np.clip(np.where(wanted > 0.5, 1, 0), CUT, 1 - CUT))
        # each of the three colours has pixels of its own that count
        weight = over.reshape(count, -1, 1) * np.where(beyond, 0.02, 1.0)
        turned = np.swapaxes(known[:, None] * np.swapaxes(weight, 1, 2)[..., None], 2, 3)
        curve = turned @ known[:, None] / total + np.diag([RIDGE[0]] * 3 + [RIDGE[1]]).astype(np.float32)
        wish = np.swapaxes(wanted - known[..., :3], 1, 2)[..., None]
        change = np.linalg.solve(curve, turned @ wish / total)
        made = known[..., :3] + np.swapaxes((known[:, None] @ change)[..., 0], 1, 2)
    return made.reshape(laid.shape)


def _smaller(prints: np.ndarray, side: int) -> np.ndarray:
    size = SIDE // side
    return prints if size == 1 else prints.reshape(-1, side, size, side, size, 3).mean((2, 4))


def _soft(values: np.ndarray, times: int) -> np.ndarray:
    """Blurred by 1, 2, 1, so often."""
    for _ in range(times):
        wide = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        rows = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
        values = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
    return values


def _slopes(values: np.ndarray) -> np.ndarray:
    return (np.gradient(values, axis=2) ** 2 + np.gradient(values, axis=1) ** 2).sum(3)


def _parts(values: np.ndarray) -> np.ndarray:
    """Means by part, (P, PARTS * PARTS)."""
    size = SIDE // PARTS
    return values.reshape(-1, PARTS, size, PARTS, size).mean((2, 4)).reshape(len(values), -1)


def _turned(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far colours were turned, and not only made stronger or weaker, (P, SIDE, SIDE)."""
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    most = np.maximum(np.linalg.norm(before, axis=3), np.linalg.norm(after, axis=3))
    same_side = (before * after).sum(3) > 0
    return np.where(same_side, np.abs(cross) / np.maximum(most, 0.05), most)


def _detail(prints: np.ndarray) -> np.ndarray:
    """Share of the parts in which there is something to see, (P,)."""
    return (_parts(_slopes(_soft((prints @ _COLOURS)[..., :1], 1))) > FLAT).mean(1)
