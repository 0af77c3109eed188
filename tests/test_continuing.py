"""Schedules of one problem as the beginning of a search for another."""

import jax.numpy as jnp
import numpy as np
import pytest

from spectralpost.errors import InputError
from spectralpost.learning import LEVELS, Decoded, parameters_of, starts_from
from spectralpost.noise import log_snr, rectified_flow, respaced, ve_karras, vp_linear
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dps import dps

STEPS = 5
GRIDS = {"vp": vp_linear, "ve": ve_karras, "flow": rectified_flow}


def schedule(curve, steps=STEPS, seed=0):
    """Uneven levels, and weights that differ from step to step."""
    random = np.random.default_rng(seed)
    grid = GRIDS[curve](steps)
    levels = respaced(curve, grid, jnp.asarray(0.5 * random.standard_normal(steps - 1)))
    zeta, eta = random.uniform(0.2, 3, steps), random.uniform(0.1, 0.9, steps)
    return Decoded(levels, {"zeta": jnp.asarray(zeta), "eta": jnp.asarray(eta)})


def in_words(numbers, curve, steps):
    """The schedules that a search of all weights and levels would begin from."""
    levels = GRIDS[curve](steps)
    given = {"zeta": jnp.ones(steps), "eta": jnp.full(steps, 0.5)}
    parameters = parameters_of(dps(), levels, given, ("zeta", "eta"), learn_levels=True)
    return [parameters.schedule(vector) for vector in parameters.fit(numbers)]


@pytest.mark.parametrize("curve", GRIDS)
def test_as_many_steps_are_the_same_schedule(curve):
    wanted = schedule(curve)
    numbers = starts_from(dps(), [wanted], GRIDS[curve](STEPS), ("zeta", "eta"), True)
    (found,) = in_words(numbers, curve, STEPS)
    for one, other in zip(found.levels, wanted.levels, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    for name, weights in wanted.guidance.items():
        np.testing.assert_allclose(found.guidance[name], weights, rtol=1e-9, err_msg=name)


def test_twice_as_many_steps_are_halfway_between():
    """In log-SNR; weights as they are, and per unit of time. eta is a share either way."""
    steps = 2 * STEPS - 1
    wanted = schedule("vp")
    numbers = starts_from(dps(), [wanted], vp_linear(steps), ("zeta", "eta"), True)
    as_is, per_time = in_words(numbers, "vp", steps)
    before, after = (np.asarray(log_snr(one.levels)[:-1]) for one in (wanted, as_is))
    np.testing.assert_allclose(after[::2], before, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(after[1::2], (before[1:] + before[:-1]) / 2, rtol=1e-9)
    for name in ("zeta", "eta"):
        np.testing.assert_allclose(as_is.guidance[name][::2], wanted.guidance[name], rtol=1e-9)
    between = np.sqrt(wanted.guidance["zeta"][1:] * wanted.guidance["zeta"][:-1])
    np.testing.assert_allclose(as_is.guidance["zeta"][1::2], between, rtol=1e-9)
    np.testing.assert_allclose(per_time.guidance["eta"], as_is.guidance["eta"], rtol=1e-9)
    share = STEPS / steps
    np.testing.assert_allclose(per_time.guidance["zeta"], share * as_is.guidance["zeta"], rtol=1e-9)


def test_levels_that_stay_take_weights_only():
    """Linear in log-SNR stays so on other levels, within those of the schedule."""
    levels, fewer = vp_linear(40), vp_linear(10)
    zeta = lambda levels: jnp.exp(0.3 * log_snr(levels)[:-1])  # noqa: E731
    numbers = starts_from(dps(), [Decoded(fewer, {"zeta": zeta(fewer)})], levels, ("zeta",))
    assert set(numbers) == {"zeta"} and numbers["zeta"].shape == (2, 40)
    last = log_snr(fewer)[-2]
    inside = np.asarray(log_snr(levels)[:-1] <= last)
    np.testing.assert_allclose(np.exp(numbers["zeta"][0])[inside], zeta(levels)[inside], rtol=1e-9)
    np.testing.assert_allclose(numbers["zeta"][0][~inside], 0.3 * last, rtol=1e-9)


def test_one_step():
    """Has no gap; many steps of it have its weight."""
    numbers = starts_from(dps(), [schedule("vp", 1)], vp_linear(4), ("zeta",), True)
    assert numbers[LEVELS].shape == (2, 3) and np.isfinite(numbers[LEVELS]).all()
    assert np.ptp(numbers["zeta"], axis=1).max() == 0
    numbers = starts_from(dps(), [schedule("vp", 4)], vp_linear(1), ("zeta",), True)
    assert numbers[LEVELS].shape == (2, 0)


@pytest.mark.parametrize(
    ("sampler", "schedules", "message"),
    [
        (diffpir(), [schedule("vp")], "'lambda_' is learned, but one of them has only zeta, eta"),
        (dps(), [], "schedules: one at least"),
        (dps(), [Decoded(vp_linear(2), {"zeta": jnp.ones((2, 3))})], "'zeta' of one .* by band"),
    ],
)
def test_what_is_no_beginning_is_refused(sampler, schedules, message):
    free = tuple(name for name in sampler.constraint if name != "eta")
    with pytest.raises(InputError, match=message):
        starts_from(sampler, schedules, vp_linear(3), free)
