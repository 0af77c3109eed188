"""Inpainting of large images: small models of it.

A mask mixes all frequencies, so an image of n pixels is one block of n modes: too many for closed
forms beyond a thousand pixels. A mask that repeats every p pixels mixes only those p^axes that are
shape / p apart,

    (mask x)_(q + j shape / p) = sum_i M_(j - i) x_(q + i shape / p),     M = DFT(tile) / p^axes,

with x in Hartley coordinates and a tile that is its own mirror image, so that M is real. All these
blocks have the same eigenvectors, the Hartley functions along j, and the pixels of the tile for
singular values. So a random mask is modelled by tiles that are cut out of it, each repeated: blocks
as small as a tile, and all frequencies of the image, of which the lowest decide whether a sampler
blows up. Blocks of similar spectrum count as one.

Where holes are larger than a tile, what a sampler blows up is coarse: modes with much variance that
early steps see from around a hole and that later steps, which look less far, do not mend. So of
these, rows P of the Hartley transform, the space of both M P^T and (1 - M) P^T is one block: the
modes where they are known and where they are not. M leaves that space alone, so what an update does
with H is exact there; its prior covariance is that of the image, and what is left out is that it
varies together with the rest. All else is either known or not.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .calibration import LEVELS
from .degradations import Degradation
from .degradations.circular import hartley, hartley_matrix
from .degradations.downsample import aliased
from .errors import InputError, check_whole
from .prior import Prior, frequency, resized
from .problem import Problem, image_problem, make_problem, planes_of, with_ratio
from .splitting import log_sizes, nearest_to_mean, split_worst_first

EXACT = 64  # pixels of an image that is taken for the one block that it is
TILE, TILES, BLOCKS = 4, 4, 8  # pixels along each axis; how many; blocks of each
LOWEST = 36  # of large holes: modes of a block
TINY = 1e-9  # of a mode's squared norm, a part that counts as none
TRIED = 64  # places for a tile
LARGE_HOLE = 3.0  # times the holes of a random mask that knows as many pixels


class Rows(NamedTuple):
    """Blocks of a problem, and which frequencies they are of."""

    spectrum: np.ndarray  # [B, k]
    response: np.ndarray  # [B, k]
    basis: np.ndarray  # [B, k, k]
    mean: np.ndarray  # [B, k]
    weight: np.ndarray  # [B]
    frequency: np.ndarray  # [B, k], in cycles per pixel


def learning_problem(
    prior: Prior, degradation: Degradation, sigma_y: float, channels: int | None = None
) -> Problem:
    """What a schedule is learned on: `image_problem`, or where a mask makes that one large block,
    `inpainting_problem`. Arguments and errors of both.

    >>> sp.learning_problem(prior, blur, 0.1).spectrum.shape  # as `image_problem`
    (64,)
    """
    if is_exact(degradation):
        return image_problem(prior, degradation, sigma_y, channels)
    return inpainting_problem(prior, degradation, sigma_y, channels)


def is_exact(degradation: Degradation) -> bool:
    """Whether `learning_problem` holds the modes of an image, and not a model of them."""
    return degradation.name != "inpaint" or degradation.response.size <= EXACT


def inpainting_problem(
    prior: Prior,
    degradation: Degradation,
    sigma_y: float,
    channels: int | None = None,
    *,
    tile: int | None = None,
    num_blocks: int = BLOCKS,
) -> Problem:
    """A model of inpainting large images: blocks of tile^axes modes, [B, k].

    prior and degradation (`inpaint`) are those of the images. Tiles lie at random places of the
    mask: four, by default 4 pixels wide, each with at most `num_blocks` blocks a plane. Of a mask
    with large holes there are three blocks a plane instead, by default of up to 36 modes: of
    the lowest frequencies where known and not, and of all else known, and not. sigma_y and channels
    as of `image_problem`. `experiments/inpainting.py` measures on whole images how well schedules
    carry over.
    Where planes have masks of their own, blocks are of all planes, [B, C k], and holes of any size
    are seen through tiles of 4x4 pixels. Of masks that repeat every 1, 2 or 4 pixels, each tile its
    own mirror image (pixel -i modulo 4 as pixel i, so all that repeat every one or two), no more
    than blocks of similar spectrum is lost.
    Raises InputError for a degradation without a mask, a tile larger than the image, and as
    `image_problem`.

    >>> large, mask = sp.power_law((16, 16)), sp.inpaint((16, 16))
    >>> sp.inpainting_problem(large, mask, 0.1).spectrum.shape[1]  # modes of a block
    16
    """
    _, share = planes_of(prior, degradation, channels)
    rows = _rows(prior, degradation, tile, num_blocks)
    whole = Rows(*map(np.concatenate, zip(*rows, strict=True)))
    problem = make_problem(
        whole.spectrum, whole.response, sigma_y, whole.mean, share * whole.weight, whole.basis
    )
    if (profile := prior.calibration) is None:
        return problem
    ratio = []
    for plane, one in enumerate(rows):
        k = one.frequency.shape[1]
        of_axes = profile.on(one.frequency.ravel()).reshape(-1, *one.frequency.shape, len(LEVELS))
        # Planes taken together have, of each block, modes of one axis beside those of the next.
        alone = degradation.planes is None
        axis = np.full(k, plane) if alone else np.arange(k) * len(of_axes) // k
        ratio.append(of_axes[axis, :, np.arange(k)].swapaxes(0, 1))
    return with_ratio(problem, np.concatenate(ratio), prior)


def mode_frequency(prior: Prior, degradation: Degradation) -> np.ndarray:
    """In cycles per pixel, those that the blocks of `learning_problem` are of: [F] | [B, k].

    Of one plane; of colour the last, with most variance. Where planes are taken together 0 stands
    for what is of others.

    >>> round(float(sp.mode_frequency(prior, blur).max()), 3)  # cycles per pixel
    0.707
    """
    planes = degradation.planes or 1
    if not is_exact(degradation):
        found = _rows(prior, degradation)[-1].frequency
        found[:, : found.shape[1] // planes * (planes - 1)] = 0
        return found
    found, vectors = frequency(degradation.shape).ravel(), degradation.eigenvectors
    found = np.append(np.zeros(found.size * (planes - 1)), found)
    return found if vectors is None else found[vectors.frequency]


def _rows(
    prior: Prior,
    degradation: Degradation,
    tile: int | None = None,
    num_blocks: int = BLOCKS,
) -> list[Rows]:
    """Those of each plane, or of all together: see `inpainting_problem`."""
    if degradation.name != "inpaint":
        raise InputError(f"degradation = {degradation.name!r}: only inpaint has a mask")
    together = degradation.planes
    masks = degradation.response.reshape(-1, *degradation.shape) > 0
    large_holes = together is None and _has_large_holes(masks[0])
    least = min(degradation.shape)
    size = min(TILE, least) if tile is None else check_whole("tile", tile, 2)
    num_blocks = check_whole("blocks", num_blocks)
    if size > least and not large_holes:
        raise InputError(f"tile = {size}: larger than the image, {degradation.shape}")
    planes = 1 if prior.axes is None else len(prior.axes)
    level = prior.mean.reshape(planes, -1).mean(axis=1)
    grid = degradation.shape if large_holes else tuple(n // size * size for n in degradation.shape)
    spectra = resized(replace(prior, mean=np.zeros_like(prior.mean)), grid).spectrum
    spectra = spectra.reshape(planes, *grid)
    if together is None:
        sets = [(spectra[i : i + 1], level[i : i + 1], np.eye(1)) for i in range(planes)]
    else:
        axes = np.eye(together) if prior.axes is None else prior.axes
        every = np.broadcast_to(spectra, (together, *grid)), np.broadcast_to(level, together)
        sets = [(*every, axes)]
    if large_holes:
        num = LOWEST if tile is None else size ** spectra[0].ndim
        return [_lowest(masks[0], some[0], grey, num) for some, grey, _ in sets]
    tiles, scale = _tiles(masks, size, TILES), masks[0].size / spectra[0].size
    found = [
        _repeated(tiles, some, frequency(grid), grey, num_blocks, axes) for some, grey, axes in sets
    ]
    return [rows._replace(weight=scale * rows.weight) for rows in found]


def _repeated(
    tiles: np.ndarray,
    spectra: np.ndarray,
    at: np.ndarray,
    level: np.ndarray,
    num_blocks: int,
    axes: np.ndarray,
) -> Rows:
    """Tiles [T, C k] repeated over images of C planes, these spectra [C, *grid] and mean values [C]
    along these axes [C, C], of the frequencies `at` [*grid]."""
    num, planes, dims = len(tiles), len(spectra), spectra.ndim - 1
    size = round((tiles.shape[1] // planes) ** (1 / dims))
    grids = np.zeros_like(spectra), np.broadcast_to(at, spectra.shape)
    grids[0].reshape(planes, -1)[:, 0] = level * np.sqrt(at.size)  # of frequency 0
    blocks, mean, at = (
        np.concatenate(aliased(one, size, dims), axis=1) for one in (spectra, *grids)
    )
    place, weight, total = _alike(blocks, num_blocks)
    have = weight * blocks[place].sum(axis=1)
    alike = blocks[place] * (total / np.maximum(have, np.finfo(float).tiny))[:, None]
    basis = np.kron(axes, hartley_matrix((size,) * dims))
    return Rows(
        np.tile(alike, (num, 1)),
        np.repeat(tiles, len(place), axis=0),
        np.tile(basis, (num * len(place), 1, 1)),
        np.tile(mean[place] @ basis.T, (num, 1)),
        np.tile(weight / num, num),
        np.tile(at[place], (num, 1)),
    )


def _lowest(mask: np.ndarray, spectrum: np.ndarray, level: np.ndarray, num: int) -> Rows:
    """The num / 2 most variable modes (at most a quarter of all), where they are known and where
    they are not; the others in bins by variance, in a block where they are known and one where
    they are not. mask and spectrum are [*grid], level is the mean grey value."""
    variance, at, n = spectrum.ravel(), frequency(spectrum.shape).ravel(), spectrum.size
    order = np.argsort(-variance, kind="stable")
    low, rest = np.split(order, [min(num // 2, n // 4)])
    P = np.zeros((low.size, n))
    P[np.arange(low.size), low] = 1
    P = _in_hartley(P, spectrum.shape)
    squared, V = np.linalg.eigh((P * mask.ravel()) @ P.T)
    parts = [
        (V[:, norm2 > TINY].T @ P) * where.ravel() / np.sqrt(norm2[norm2 > TINY, None])
        for where, norm2 in ((mask, squared), (~mask, 1 - squared))
    ]
    Q, k, num_known = np.concatenate(parts), sum(map(len, parts)), len(parts[0])
    in_modes = _in_hartley(Q, spectrum.shape)
    of_Q, E = np.linalg.eigh((in_modes * variance) @ in_modes.T)
    of_Q = np.maximum(of_Q, 0)
    binned = lambda values: np.array([part.mean() for part in np.array_split(values[rest], k)])  # noqa: E731
    high, high_at, known = binned(variance), binned(at), np.count_nonzero(mask)
    left = max(variance.sum() - of_Q.sum(), 0) / (n - k)
    high *= left / max(high.mean(), np.finfo(float).tiny)
    return Rows(
        np.stack([of_Q, high, high]),
        np.stack([np.arange(k) < num_known, np.ones(k), np.zeros(k)]).astype(float),
        np.stack([E, np.eye(k), np.eye(k)]),
        np.stack([level * Q.sum(axis=1), np.zeros(k), np.zeros(k)]),
        np.array([1, (known - num_known) / k, (n - known - k + num_known) / k]),
        np.stack([(E.T @ in_modes) ** 2 @ at, high_at, high_at]),
    )


def _in_hartley(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Images [k, n] of this shape, in Hartley coordinates."""
    return hartley(rows.reshape(-1, *shape), tuple(range(1, len(shape) + 1))).reshape(rows.shape)


def _has_large_holes(mask: np.ndarray) -> bool:
    """Whether holes are larger than chance makes them."""
    unknown = np.count_nonzero(~mask)
    ends = sum(np.count_nonzero(~mask & np.roll(mask, -1, axis)) for axis in range(mask.ndim))
    hole = mask.ndim * unknown / max(ends, 1)  # mean length along an axis
    return bool(hole > LARGE_HOLE * mask.size / np.count_nonzero(mask))


def _tiles(masks: np.ndarray, size: int, num: int) -> np.ndarray:
    """Tiles [num, C k] of masks [C, *shape], 0 or 1, each its own mirror image: pixel -i, modulo
    the tile, is as pixel i. Of `TRIED` at random places those that know most nearly as many pixels
    as masks do; fewer where there are no more of these."""
    random, tiles, shape = np.random.default_rng(0), [], masks.shape[1:]
    mirrored = np.arange(size ** len(shape)).reshape((size,) * len(shape))
    mirrored = np.roll(np.flip(mirrored), 1, axis=range(mirrored.ndim)).ravel()
    first = np.minimum(mirrored, np.arange(mirrored.size))
    for _ in range(TRIED):
        corner = [random.integers(max(n - size, 0) + 1) for n in shape]
        cut = masks[(slice(None), *(slice(at, at + size) for at in corner))]
        tiles.append(cut.reshape(len(masks), -1)[:, first].ravel())
    some = np.unique([tile for tile in tiles if tile.any() and not tile.all()], axis=0)
    if not some.size:  # a mask that hides nothing, or all but a corner
        return np.ones((1, tiles[0].size))
    gap = np.rint(np.abs(some.mean(axis=1) - masks.mean()) * tiles[0].size)  # in pixels
    order = np.lexsort((random.permutation(len(some)), gap))[:num]
    return some[order[gap[order] == gap.min()]].astype(float)


def _alike(spectrum: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of blocks [rows, k] a few that stand for all; for how many each, and their variance.

    That of frequency 0, the first, stands for itself: it is what a sampler may blow up. Others are
    grouped by largest, mean and least variance. One of a group stands for it, not the average:
    blocks that are each other's mirror images would make one that is none.
    """
    if num >= len(spectrum):
        return np.arange(len(spectrum)), np.ones(len(spectrum)), spectrum.sum(axis=1)
    features = log_sizes(spectrum)
    share = spectrum.sum(axis=1) / spectrum.sum() + 1 / len(spectrum)
    group = np.append(0, 1 + split_worst_first(features[:, 1:], share[1:], num - 1))
    place = nearest_to_mean(features, np.ones(len(spectrum)), group)
    return place, np.bincount(group).astype(float), np.bincount(group, spectrum.sum(axis=1))
