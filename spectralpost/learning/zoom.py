"""Minimise a loss with cliffs over one number or a few, by grids that zoom in; knows no sampler."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array

from .guidance import constant_grid
from .lanes import FEW, best_of_each

VALLEYS = 3  # of the first grid of one number are looked into
NEAR = 0.2  # around what was found: on other bins, or of numbers one at a time
ENOUGH = 2e-3  # a last grid of this reach finds a loss within a millionth of its curvature


def look_everywhere(
    losses: Callable[[np.ndarray], Array], dtype: Any, centre: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`zoom` over all of centre [N, num] +- reach; of several numbers along each of them as well.

    A grid of 128 points over two numbers is no finer than one of 11 over each, and deep valleys are
    narrow: so each number in turn is zoomed in on by itself, twice, from the centre and from what
    the grid finds; and then all of them, near the best.
    """
    best, least = zoom(losses, dtype, centre[:, None], reach, 128)
    num = centre.shape[1]
    if num == 1:
        return best, least
    candidates = [(best[:, 0], least[:, 0])]
    for at in (centre, best[:, 0]):
        lowest = np.full(len(at), np.inf)
        for i in [*range(num)] * 2:
            along, middle = _along(losses, at, i), centre[:, None, i : i + 1]
            where, found = best_of_each(*zoom(along, dtype, middle, reach, 128))
            at = at.copy()
            at[:, i] = np.where(found < lowest, where[:, 0], at[:, i])
            lowest = np.minimum(found, lowest)
        candidates.append((at, lowest))
    at, lowest = best_of_each(*(np.stack(part, axis=1) for part in zip(*candidates, strict=True)))
    near, found = zoom(losses, dtype, at[:, None], np.minimum(reach, NEAR), 128)
    better = found < lowest[:, None]
    return np.where(better[..., None], near, at[:, None]), np.minimum(found, lowest[:, None])


def zoom(
    losses: Callable[[np.ndarray], Array],
    dtype: Any,
    centres: np.ndarray,
    reach: np.ndarray,
    points: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise over centres [N, valleys, num] +- reach [N], by grids that zoom in on their best
    points. Returns these, [N, valleys, num], and their losses, [N, valleys].

    losses  of points [N, grid, num], of this dtype
    points  of the first grid

    No derivatives: the loss of a constant has cliffs where the sampler becomes unstable. Once they
    are seen, few points of one number do, in each of the lowest VALLEYS of a line: of DPS in few
    steps the deepest is narrower than the spacing of the first grid.
    """
    cells, _, num = centres.shape
    points = points if num == 1 else 128
    best, best_loss = centres, np.full(centres.shape[:2], np.inf)
    while np.any(reach > ENOUGH):
        grid = constant_grid(num, points)
        tried = best[:, :, None] + reach[:, None, None, None] * grid  # [N, valleys, grid, num]
        values = _in_batches(losses, tried.reshape(cells, -1, num).astype(dtype))
        values = values.reshape(tried.shape[:3])
        if num == 1 and best.shape[1] == 1:
            at = _valleys(values[:, 0])
            every = best, best_loss, tried, values
            best, best_loss, tried, values = (np.repeat(one, at.shape[1], axis=1) for one in every)
        else:
            at = values.argmin(axis=2)
        found = np.take_along_axis(values, at[..., None], axis=2)[..., 0]
        where = np.take_along_axis(tried, at[..., None, None], axis=2)[:, :, 0]
        better = (found < best_loss) & (reach > ENOUGH)[:, None]
        best = np.where(better[..., None], where, best)
        best_loss = np.where(better, found, best_loss)
        # One and a half spacings of the grid around its best point, two of several weights; of
        # many weights these are no zoom.
        reach = reach * min((3 if num == 1 else 4) / points ** (1 / num), 0.8)
        points = FEW if num == 1 else points
    return best, best_loss


def _along(
    losses: Callable[[np.ndarray], Array], at: np.ndarray, i: int
) -> Callable[[np.ndarray], Array]:
    """The losses of number i alone, [N, grid, 1], the others as in `at` [N, num]."""

    def along(line: np.ndarray) -> Array:
        points = np.repeat(at[:, None].astype(line.dtype), line.shape[1], axis=1)
        points[..., i] = line[..., 0]
        return losses(points)

    return along


def _valleys(values: np.ndarray) -> np.ndarray:
    """Where the lowest local minima of losses along a line [N, points] are, [N, VALLEYS], the least
    first; that one again where there are fewer."""
    sides = np.pad(values, ((0, 0), (1, 1)), constant_values=np.inf)
    low = (values <= sides[:, :-2]) & (values <= sides[:, 2:])
    depth = np.where(low, values, np.inf)
    order = np.argsort(depth, axis=1, kind="stable")[:, :VALLEYS]
    there = np.isfinite(np.take_along_axis(depth, order, axis=1))
    return np.where(there, order, order[:, :1])


def _in_batches(losses: Callable[[np.ndarray], Array], tried: np.ndarray) -> np.ndarray:
    """losses of [N, grid, num] by FEW of the grid: one program, whatever the size of the grid."""
    points = tried.shape[1]
    last = np.repeat(tried[:, -1:], -points % FEW, axis=1)
    parts = np.split(np.concatenate([tried, last], axis=1), range(FEW, points, FEW), axis=1)
    found = [losses(part) for part in parts]  # all are asked for before the first is waited for
    return np.concatenate([np.asarray(part) for part in found], axis=1)[:, :points]
