"""What a search moves: a vector <-> noise levels and weights.

A vector [P] stands for unconstrained numbers u = basis @ vector of every weight (and of the noise
levels), and these for a schedule. Knots, bands and learned levels are other bases, nothing else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..algebra import einsum, matmul
from ..errors import InputError, check_whole
from ..kept_jit import kept_jit
from ..noise import Curve, NoiseLevel, curve_of, moved_positions, num_steps_of, on_curve, respaced
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from .guidance import (
    band_knots,
    band_membership,
    bounded,
    constrain,
    interpolation,
    log_snr_position,
    on_host,
    roughness,
    to_weight,
)
from .jacobian import Direction

LEVELS = "levels"  # the name of the gaps between noise levels, among those of weights


class Freedom(NamedTuple):
    """What a schedule may do besides one weight a step.

    levels  also learn the gaps between noise levels. The first level and the clean end stay, the
            family (VP, VE, flow) too
    held    with `levels`: these stay as they are after all. For weights on rounded levels, by the
            program that learned both, which is compiled
    knots   None: one weight a step. k: weights interpolated in log-SNR between k knots
            (`guidance.interpolation`), for schedules of few numbers; 1 learns a constant
    bands   weights [S, bands] that depend on how well a mode is measured, see
            `guidance.band_membership`; for independent modes
    """

    levels: bool = False
    knots: int | None = None
    bands: int | None = None
    held: bool = False

    def checked(self, levels: NoiseLevel, problems: Sequence[Problem]) -> "Freedom":
        """With whole numbers as ints; InputError for what there cannot be."""
        if self.held and not self.levels:
            raise InputError("held = True: without levels = True they stay as they are anyway")
        if self.levels and num_steps_of(levels) < 2:
            raise InputError("levels: one step has no gap between noise levels to learn")
        if self.bands is not None and problems[0].basis is not None:
            raise InputError(f"bands = {self.bands}: weights by band need independent modes")
        given = {name: getattr(self, name) for name in ("knots", "bands")}
        return self._replace(
            **{name: check_whole(name, one) for name, one in given.items() if one is not None}
        )


class Decoded(NamedTuple):
    """Noise levels and weights: what a vector stands for."""

    levels: NoiseLevel  # [S + 1]
    guidance: Guidance  # name -> [S], by band [S, bands]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("levels", "fixed", "basis", "band_knots"),
    meta_fields=("sampler", "curve", "knots"),
)
@dataclass(frozen=True)
class Parameters:
    """Which schedules vectors stand for. Build it with `parameters_of`."""

    sampler: Sampler
    curve: Curve | None  # family of the grid where its levels are learned, else None
    knots: int | None  # see `guidance.interpolation`
    levels: NoiseLevel  # as given, [S + 1]
    fixed: Guidance  # the weights that stay, name -> [S]
    basis: Guidance  # name -> [S, p], by band [S, bands, p], LEVELS [S - 1, p]: p of P numbers
    band_knots: Array | None  # [bands]

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights that are learned."""
        return tuple(name for name in self.basis if name != LEVELS)

    def unconstrained(self, vector: Array) -> Guidance:
        """name -> unconstrained numbers [S], by band [S, bands], LEVELS [S - 1]."""
        return {name: matmul(self.basis[name], own) for name, own in self.split(vector).items()}

    def numbers(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """`unconstrained` of many vectors, on the host: name -> [n, S], ..."""
        return {
            name: np.einsum("...p,np->n...", np.asarray(self.basis[name]), own)
            for name, own in self.split(vectors).items()
        }

    def schedule(self, vector: Array) -> Decoded:
        """The schedule of a vector, fixed weights included."""
        u = self.unconstrained(vector)
        weights = {name: u[name] for name in self.weights}
        return Decoded(self.grid(u), self.fixed | constrain(self.sampler.constraint, weights))

    def grid(self, u: Guidance) -> NoiseLevel:
        """The noise levels of unconstrained numbers."""
        return self.levels if self.curve is None else respaced(self.curve, self.levels, u[LEVELS])

    def weights_on(self, u: Guidance, problem: Problem) -> Guidance:
        """The weights that the sampler is given for one problem, [S] or by mode [S, F]."""
        modes = {name: self._of_modes(name, u[name], problem) for name in self.weights}
        return self.fixed | constrain(self.sampler.constraint, modes)

    def fit(self, u: dict[str, np.ndarray]) -> np.ndarray:
        """The vectors [n, P] whose numbers are nearest to u, name -> [n, S], [n, S, bands], ..."""
        parts = []
        for name, basis in self.basis.items():
            rows = np.asarray(basis, float).reshape(-1, basis.shape[-1])
            wanted = np.asarray(u[name], float).reshape(len(u[name]), -1)
            parts.append(wanted @ np.linalg.pinv(rows).T)
        return np.concatenate(parts, axis=1)

    def fit_weights(self, u: dict[str, np.ndarray]) -> np.ndarray:
        """The vectors of numbers [n, S] of weights: the same in all bands, levels as given."""
        num, rich = len(next(iter(u.values()))), {}
        for name, basis in self.basis.items():
            if name == LEVELS:
                rich[name] = np.zeros((num, basis.shape[0]))
            elif basis.ndim == 3:
                rich[name] = np.repeat(u[name][:, :, None], basis.shape[1], axis=2)
            else:
                rich[name] = u[name]
        return self.fit(rich)

    def rough(self, vector: Array) -> Array:
        """Numbers whose squares add up to how rough a schedule is, linear in vector."""
        rows = []
        for name, u in self.unconstrained(vector).items():
            levels = self.levels
            if name == LEVELS:  # a gap begins at each noisy level but the last
                levels = jax.tree.map(lambda leaf: leaf[:-1], levels)
            columns = u.reshape(u.shape[0], -1)
            rough = jax.vmap(roughness, in_axes=(1, None))(columns, levels)
            rows.append(rough.ravel() / columns.shape[1] ** 0.5)
        return jnp.concatenate(rows)

    def directions(self, u: Guidance, problem: Problem) -> dict[str, Direction]:
        """How the inputs of the steps move with unconstrained numbers, for `jacobian.linearise`.

        By weight name: [1, S], by band [bands, S, F]. By "from" and "to": the levels that a step
        goes from and to.
        """
        found: dict[str, Direction] = {
            name: {name: self._weight_rates(name, u[name], problem)} for name in self.weights
        }
        if self.curve is not None:
            positions = moved_positions(self.levels, u[LEVELS])
            moving = jnp.ones_like(positions).at[0].set(0)
            rates = jax.jvp(partial(on_curve, self.curve), (positions,), (moving,))[1]
            to = jax.tree.map(lambda rate: jnp.append(rate[1:], jnp.zeros(1, rate.dtype)), rates)
            one = partial(jax.tree.map, lambda rate: rate[None])
            found |= {"from": {"t": one(rates)}, "to": {"s": one(to)}}
        return found

    def by_vector(self, u: Guidance, by_inputs: dict[str, Array]) -> Array:
        """Derivatives by the vector, [K, R, P], from [K, D, S, R] along each of `directions`."""
        parts = []
        for name, basis in self.basis.items():
            if name == LEVELS:
                # A position is where one step begins and where the one before it ends.
                before = jnp.pad(by_inputs["to"][:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
                by_position = by_inputs["from"] + before
                positions = jax.jacfwd(partial(moved_positions, self.levels))(u[name])
                parts.append(einsum("kdsr,su,up->krp", by_position, positions, basis))
            elif basis.ndim == 2 and basis.shape[0] == basis.shape[1]:  # one: a number a step
                parts.append(jnp.swapaxes(by_inputs[name][:, 0], 1, 2))
            else:
                by_band = basis if basis.ndim == 3 else basis[:, None, :]
                parts.append(einsum("kdsr,sdp->krp", by_inputs[name], by_band))
        return jnp.concatenate(parts, axis=-1)

    def split(self, vectors: Any) -> dict[str, Any]:
        """The numbers of each name, [..., p], of vectors [..., P]."""
        ends = np.cumsum([basis.shape[-1] for basis in self.basis.values()])
        return {
            name: vectors[..., end - basis.shape[-1] : end]
            for (name, basis), end in zip(self.basis.items(), ends, strict=True)
        }

    def thinned(self, kept: np.ndarray) -> "Parameters":
        """The same weights on some of the levels, whose indices these are: [s + 1], s < S."""
        levels = jax.tree.map(lambda leaf: leaf[kept], self.levels)
        fixed = jax.tree.map(lambda leaf: leaf[kept[:-1]], self.fixed)
        basis = _basis(self.weights, levels, interpolation(levels, self.knots))
        return replace(self, levels=levels, fixed=fixed, basis=basis)

    def carried(self, found: dict[str, np.ndarray], levels: NoiseLevel) -> dict[str, np.ndarray]:
        """Numbers [n, s] of weights on a grid of s steps, interpolated in log-SNR to this grid."""
        old, new = (log_snr_position(on_host(grid)) for grid in (levels, self.levels))
        return {
            name: np.stack([np.interp(new, old, one) for one in found[name]])
            for name in self.weights
        }

    def _of_modes(self, name: str, u: Array, problem: Problem) -> Array:
        """Unconstrained numbers of the modes, [S, F], from those of bands; [S] stays."""
        if u.ndim == 1:
            return u
        assert self.band_knots is not None
        membership = band_membership(problem, self.band_knots)
        return matmul(bounded(self.sampler.constraint[name], u), membership.T)

    def _weight_rates(self, name: str, u: Array, problem: Problem) -> Array:
        """A weight's rates of change with its numbers: [1, S], or [bands, S, F]."""
        kind = self.sampler.constraint[name]
        modes, one = self._of_modes(name, u, problem), jnp.ones_like
        slope = jax.jvp(partial(to_weight, kind), (modes,), (one(modes),))[1]
        if modes.ndim == 1:
            return slope[None]
        assert self.band_knots is not None
        counts = jax.jvp(partial(bounded, kind), (u,), (one(u),))[1]
        return einsum("fb,sb,sf->bsf", band_membership(problem, self.band_knots), counts, slope)


def parameters_of(
    sampler: Sampler,
    levels: NoiseLevel,
    guidance: Guidance,
    free: Iterable[str],
    *,
    learn_levels: bool = False,
    held: bool = False,
    knots: int | None = None,
    bands: int | None = None,
    problem: Problem | None = None,
) -> Parameters:
    """The parameters of the weights named in `free`; the others stay as in `guidance`.

    levels [S + 1], guidance leaves [S]. held, knots, bands: see `Freedom`; the knots of bands are
    those of `problem`.
    """
    free = tuple(sorted(free))
    fixed = {name: weights for name, weights in guidance.items() if name not in free}
    names = tuple(sorted((*free, LEVELS))) if learn_levels else free
    by_band = None
    if bands is not None:
        assert problem is not None
        by_band = band_knots(problem, bands)
    basis = _basis(names, levels, interpolation(levels, knots), bands)
    if held and learn_levels:
        basis |= {LEVELS: 0 * basis[LEVELS]}
    return Parameters(
        sampler=sampler,
        curve=curve_of(levels) if learn_levels else None,
        knots=knots,
        levels=levels,
        fixed=fixed,
        basis=basis,
        band_knots=by_band,
    )


schedule_of = kept_jit(Parameters.schedule)


def _basis(
    names: tuple[str, ...], levels: NoiseLevel, shape: np.ndarray, bands: int | None = None
) -> Guidance:
    """The numbers of each name by its own parameters; `shape` [S, p] for each (and each band)."""
    basis = {}
    for name in names:
        if name == LEVELS:
            # One gap less than there are steps; a parameter of the last step alone falls away.
            block = shape[:-1, np.any(shape[:-1] != 0, axis=0)]
        elif bands is not None:
            block = np.einsum("sp,bc->sbpc", shape, np.eye(bands))
            block = block.reshape(len(shape), bands, -1)
        else:
            block = shape
        basis[name] = block.astype(levels.alpha.dtype)
    return basis
