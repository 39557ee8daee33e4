"""CAME's step of float32 matrices on a CPU: compiled loops, each of which reads and writes every number once.

The same step as in came.py, whose operations would pass over memory two to three times as often. Here a
matrix stays in a core's cache from the first pass to the last, and each thread has matrices of its own. Numba
compiles the loops on first use and keeps them on disk.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy import float32
from torch import Tensor

from diptych.optim import eight_bit

# float32 from the start: a Python float in a compiled loop would turn all of it into float64
_BLOCK, _SMALLEST = eight_bit.BLOCK, float32(eight_bit.SMALLEST)
_SQUARED_TOP, _UNIT = float32(eight_bit.TOP**2), float32(eight_bit.UNIT)
_ONE, _ZERO = float32(1), float32(0)
_ROWS, _BLOCKS = 1024, 256
"""Rows or 8-bit blocks whose sums are taken before they are added to the others': float32 has seven
digits."""


class _Settings(NamedTuple):
    lr: float32
    share: float32
    """Of the update in the momentum: 1 - beta1."""
    square_share: float32
    doubt_share: float32
    square_eps: float32
    doubt_eps: float32
    clip_threshold: float32
    kept: float32
    """Of the weights: 1 - lr * decay."""


def begin_step(
    parameters: Sequence[Tensor], states: Sequence[dict[str, Tensor]], group: dict[str, Any]
) -> Callable[[], None]:
    """Begin a step of all, on as many threads as torch takes; what is returned takes part in it and waits for
    its end."""
    (beta1, beta2, beta3), (eps1, eps2) = group["betas"], group["eps"]
    kept = 1 - group["lr"] * group["weight_decay"]
    # 1 - beta in float64: in float32 a beta of 0.9999 has lost four digits of it
    shares = (1 - beta1, 1 - beta2, 1 - beta3)
    settings = _Settings(
        *(float32(x) for x in (group["lr"], *shares, eps1, eps2, group["clip_threshold"], kept))
    )
    # the largest first, so that no thread is left alone with one at the end
    waiting = deque(sorted(range(len(parameters)), key=lambda n: -parameters[n].numel()))
    arguments = [_arrays(p, state) for p, state in zip(parameters, states, strict=True)]

    def take() -> None:
        while True:
            try:
                number = waiting.popleft()
            except IndexError:
                return
            step, arrays = arguments[number]
            step(*arrays, settings)

    # one less than torch takes: the caller is the last, in `finish`
    threads = min(torch.get_num_threads() - 1, len(parameters))
    others: list[Future[None]] = [_pool(torch.get_num_threads()).submit(take) for _ in range(threads)]

    def finish() -> None:
        take()
        for other in others:
            other.result()

    return finish


def _arrays(parameter: Tensor, state: dict[str, Tensor]) -> tuple[Any, list[Any]]:
    """The compiled step, and what it takes: arrays that share the tensors' memory."""
    assert parameter.grad is not None
    shape = parameter.shape[:2]
    weights, gradient = parameter.detach().view(shape).numpy(), parameter.grad.reshape(shape).numpy()
    averages = tuple(
        state[f"exp_avg_{what}_{side}"].numpy() for what in ("sq", "res") for side in ("row", "col")
    )
    if "exp_avg_codes" in state:
        return _step_coded, [
            weights,
            gradient,
            state["exp_avg_codes"].numpy(),
            state["exp_avg_scale"].numpy(),
            averages,
        ]
    return _step, [weights, gradient, state["exp_avg"].view(shape).numpy(), averages]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="came")


def _exact(function: Callable[..., Any], **options: Any) -> Any:
    try:
        return njit(nogil=True, error_model="numpy", cache=True, **options)(function)
    except RuntimeError:
        # neither beside the code nor in the user's cache folder may files be written: compiled anew by each
        # process
        return njit(nogil=True, error_model="numpy", **options)(function)


def _compiled(function: Callable[..., Any]) -> Any:
    """Sums may be taken in another order, so that they fit vector registers; NaN and infinity keep their
    meaning."""
    return _exact(function, fastmath={"reassoc", "contract", "nsz"})


@_compiled
def _step(weights, gradient, momentum, averages, settings):  # type: ignore[no-untyped-def]
    """One matrix (n, k), and its averages of squares and of doubts over columns and over rows."""
    rows, columns = _update_factors(gradient, averages, settings)
    over_columns, over_rows = _advance(gradient, momentum, rows, columns, settings.share)
    _step_factors(over_columns, over_rows, averages, settings, rows, columns)
    for i in range(len(weights)):
        _move(weights[i], momentum[i], rows[i], columns, settings.kept)


@_compiled
def _step_coded(weights, gradient, codes, scale, averages, settings):  # type: ignore[no-untyped-def]
    """As `_step`, with momentum as codes (n * k,) of blocks of `scale`."""
    rows, columns = _update_factors(gradient, averages, settings)
    over_columns, over_rows = _advance_coded(gradient, codes, scale, rows, columns, settings.share)
    _step_factors(over_columns, over_rows, averages, settings, rows, columns)
    _move_coded(weights, codes, scale, rows, columns, settings.kept)


@_compiled
def _update_factors(gradient, averages, settings):  # type: ignore[no-untyped-def]
    """The update is the gradient times these of its row and its column; clipped."""
    n, k = gradient.shape
    rows, columns = np.empty(n, float32), np.empty(k, float32)
    over_columns, over_rows = _squares(gradient)
    _average(
        averages[0],
        averages[1],
        over_columns,
        over_rows,
        settings.square_eps,
        settings.square_share,
        rows,
        columns,
    )
    # lengths add up in float64, as a matrix has millions of squares
    rms = math.sqrt(_length(gradient, rows, columns) / (n * k))
    rows *= _ONE / max(_ONE, float32(rms) / settings.clip_threshold)
    return rows, columns


@_compiled
def _step_factors(over_columns, over_rows, averages, settings, rows, columns):  # type: ignore[no-untyped-def]
    """The step is the momentum times these of its row and its column, from sums of (m - u)^2 where the doubt
    is beta1 (m - u)."""
    beta1 = _ONE - settings.share
    over_columns *= beta1 * beta1
    over_rows *= beta1 * beta1
    _average(
        averages[2],
        averages[3],
        over_columns,
        over_rows,
        settings.doubt_eps,
        settings.doubt_share,
        rows,
        columns,
    )
    # the rate joins the rows' factor: one product less for every weight
    rows *= settings.lr


@_compiled
def _squares(gradient):  # type: ignore[no-untyped-def]
    """Sums of squares over columns and over rows."""
    n, k = gradient.shape
    over_columns, over_rows, part = np.empty(n, float32), np.zeros(k, float32), np.zeros(k, float32)
    for i in range(n):
        total = _ZERO
        for j in range(k):
            square = gradient[i, j] * gradient[i, j]
            total += square
            part[j] += square
        over_columns[i] = total
        if (i + 1) % _ROWS == 0 or i + 1 == n:
            _add(over_rows, part)
    return over_columns, over_rows


@_compiled
def _add(sums, part):  # type: ignore[no-untyped-def]
    for j in range(len(sums)):
        sums[j] += part[j]
        part[j] = _ZERO


@_compiled
def _average(row, column, over_columns, over_rows, eps, share, rows, columns):  # type: ignore[no-untyped-def]
    """Advance averages by sums of squares; fills the factors (R_i / mean R)^-1/2 and C_j^-1/2."""
    n, k = len(row), len(column)
    total = 0.0
    for i in range(n):
        row[i] += share * (over_columns[i] / float32(k) + eps - row[i])
        total += row[i]
    mean = float32(total / n)
    for i in range(n):
        rows[i] = math.sqrt(mean / row[i])
    for j in range(k):
        column[j] += share * (over_rows[j] / float32(n) + eps - column[j])
        columns[j] = _ONE / math.sqrt(column[j])


@_compiled
def _length(gradient, rows, columns):  # type: ignore[no-untyped-def]
    """Sum of squares of gradient * rows * columns."""
    n, k = gradient.shape
    squares, length = columns * columns, 0.0
    for i in range(n):
        total = _ZERO
        for j in range(k):
            total += gradient[i, j] * gradient[i, j] * squares[j]
        length += total * rows[i] * rows[i]
    return length


@_compiled
def _advance(gradient, momentum, rows, columns, share):  # type: ignore[no-untyped-def]
    """m <- m + share (gradient * rows * columns - m); sums of squares of what lay between, over columns and
    over rows."""
    n, k = gradient.shape
    over_columns, over_rows, part = np.empty(n, float32), np.zeros(k, float32), np.zeros(k, float32)
    for i in range(n):
        over_columns[i] = _approach(gradient[i], momentum[i], rows[i], columns, share, part)
        if (i + 1) % _ROWS == 0 or i + 1 == n:
            _add(over_rows, part)
    return over_columns, over_rows


@_compiled
def _advance_coded(gradient, codes, scale, rows, columns, share):  # type: ignore[no-untyped-def]
    n, k = gradient.shape
    over_columns, over_rows, part = np.zeros(n, float32), np.zeros(k, float32), np.zeros(k, float32)
    values = np.empty(_BLOCK, float32)
    for block in range(len(scale)):
        first, last = block * _BLOCK, min(n * k, (block + 1) * _BLOCK)
        _decode(codes[first:last], scale[block], values)
        # blocks are flat and do not end where rows do
        for i, left, right in _row_parts(first, last, k):
            momentum = values[i * k + left - first : i * k + right - first]
            over_columns[i] += _approach(
                gradient[i, left:right], momentum, rows[i], columns[left:right], share, part[left:right]
            )
        scale[block] = _encode(values[: last - first], codes[first:last])
        if (block + 1) % _BLOCKS == 0 or block + 1 == len(scale):
            _add(over_rows, part)
    return over_columns, over_rows


@_exact
def _row_parts(first, last, width):  # type: ignore[no-untyped-def]
    """(row, left, right) of the parts of rows that elements first .. last-1 are made of."""
    for row in range(first // width, (last + width - 1) // width):
        yield row, max(first - row * width, 0), min(last - row * width, width)


@_compiled
def _approach(gradient, momentum, row, columns, share, over_rows):  # type: ignore[no-untyped-def]
    """`_advance` for (a part of) one row."""
    total = _ZERO
    for j in range(len(gradient)):
        gap = momentum[j] - gradient[j] * row * columns[j]
        momentum[j] -= share * gap
        square = gap * gap
        total += square
        over_rows[j] += square
    return total


@_compiled
def _move(weights, momentum, row, columns, kept):  # type: ignore[no-untyped-def]
    for j in range(len(weights)):
        weights[j] = weights[j] * kept - momentum[j] * row * columns[j]


@_compiled
def _move_coded(weights, codes, scale, rows, columns, kept):  # type: ignore[no-untyped-def]
    n, k = weights.shape
    values = np.empty(_BLOCK, float32)
    for block in range(len(scale)):
        first, last = block * _BLOCK, min(n * k, (block + 1) * _BLOCK)
        _decode(codes[first:last], scale[block], values)
        for i, left, right in _row_parts(first, last, k):
            momentum = values[i * k + left - first : i * k + right - first]
            _move(weights[i, left:right], momentum, rows[i], columns[left:right], kept)


@_exact
def _decode(codes, scale, values):  # type: ignore[no-untyped-def]
    """One block, as `eight_bit.decode`, to the bit: states are saved and read by that."""
    for j in range(len(codes)):
        code = float32(codes[j])
        values[j] = code * abs(code) * _UNIT * scale


@_exact
def _encode(values, codes):  # type: ignore[no-untyped-def]
    """One block, as `eight_bit.encode`; returns the scale."""
    # without their sign bit, floats are ordered as the integers of the same bits are, whose maximum fits
    # vector registers
    bits, top = values.view(np.int32), np.int32(0)
    for j in range(len(bits)):
        top = max(top, bits[j] & np.int32(0x7FFFFFFF))
    scale = np.full(1, top, np.int32).view(float32)[0]
    factor = _SQUARED_TOP / max(scale, _SMALLEST)
    for j in range(len(values)):
        code = np.rint(math.sqrt(abs(values[j]) * factor))
        codes[j] = np.int8(code if values[j] >= _ZERO else -code)
    return scale
