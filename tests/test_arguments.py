"""What is given in place of what is needed: one line that names it, before any work."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spectralpost as sp
from spectralpost.errors import InputError
from spectralpost.learning import constant_that_holds
from spectralpost.samplers.base import constant, factory
from spectralpost.samplers.steps import ddim_step, noise_estimate

SHAPE, SIGMA_Y, STEPS = (8, 8), 0.1, 3
PRIOR, BLUR = sp.power_law(SHAPE), sp.gaussian_blur(SHAPE, 1.0)
PROBLEM = sp.image_problem(PRIOR, BLUR, SIGMA_Y)
MERGED = sp.unique_modes(PROBLEM)
GRID = sp.noise_grid("vp_linear", STEPS)
DPS = sp.SAMPLERS["dps"]()
GUIDANCE = DPS.heuristic(PROBLEM, GRID.levels)
DENOISER, KEY = sp.GaussianDenoiser.of(PRIOR), jax.random.key(0)
Y = np.zeros(SHAPE, np.float32)
SCHEDULE = sp.Schedule.of(DPS, PRIOR, BLUR, SIGMA_Y, GRID, GUIDANCE)
LEVEL, COLOUR = sp.NoiseLevel(0.6, 0.8), sp.power_law(SHAPE, colour=True)

pytestmark = pytest.mark.usefixtures("quick")


def restored(sampler=DPS, denoiser=DENOISER, levels=GRID.levels, guidance=GUIDANCE, key=KEY):
    return sp.restore(sampler, denoiser, BLUR, Y, levels, guidance, key, sigma_y=SIGMA_Y)


OF_GRID = "levels: NoiseGrid was given, NoiseLevel is needed .of a NoiseGrid, its `levels`"
NO_SAMPLER = "sampler: function was given, Sampler is needed .*parentheses"
NO_DENOISER = "denoiser: {} was given, a function .x_t, level. -> x_hat is needed"
NO_DEGRADATION = "degradation: {} was given, Degradation is needed"
WRONG = {
    "prior to learn for": (
        lambda: sp.learn(DPS, PRIOR, GRID.levels),
        "problem: Prior was given, Problem is needed .or a list of them",
    ),
    "prior and degradation swapped": (
        lambda: sp.image_problem(BLUR, PRIOR, SIGMA_Y),
        "prior: Degradation was given, Prior is needed",
    ),
    "name of a degradation": (
        lambda: sp.image_problem(PRIOR, "gaussian_blur", SIGMA_Y),
        NO_DEGRADATION.format("str"),
    ),
    "images to measure with": (
        lambda: sp.measure(Y, BLUR, SIGMA_Y, KEY),
        NO_DEGRADATION.format("ndarray"),
    ),
    "no denoiser": (lambda: restored(denoiser=None), NO_DENOISER.format("NoneType")),
    "denoiser and degradation swapped": (
        lambda: sp.restore(DPS, BLUR, DENOISER, Y, GRID.levels, GUIDANCE, KEY, sigma_y=SIGMA_Y),
        NO_DEGRADATION.format("GaussianDenoiser"),
    ),
    "prior and denoiser swapped": (
        lambda: sp.calibrate(DENOISER, PRIOR, np.zeros((8, *SHAPE))),
        "prior: GaussianDenoiser was given, Prior is needed",
    ),
    "complex mask": (
        lambda: sp.inpaint(SHAPE, np.ones(SHAPE) * (1 + 1j)),
        "mask: an array of 0 and 1 is needed .its numbers are complex",
    ),
    "matrix for a function": (
        lambda: sp.from_function(np.eye(64), SHAPE),
        "function: ndarray was given, a function is needed; from_matrix takes matrices",
    ),
    "weights by mode to save": (
        lambda: sp.save_schedule(
            "no folder/s.json", replace(SCHEDULE, guidance={**GUIDANCE, "zeta": np.ones((3, 64))})
        ),
        "guidance.zeta: by band, .*weights by mode, .* are in no file",
    ),
    "prior to calibrate": (
        lambda: sp.calibrate(PRIOR, PRIOR, np.zeros((8, *SHAPE))),
        NO_DENOISER.format("Prior"),
    ),
    "grid to learn": (lambda: sp.learn(DPS, PROBLEM, GRID), OF_GRID),
    "grid to evaluate": (lambda: sp.evaluate(DPS, PROBLEM, GRID, GUIDANCE), OF_GRID),
    "grid to restore": (lambda: restored(levels=GRID), OF_GRID),
    "levels to learn on a grid": (
        lambda: sp.learn_on_grid(DPS, PROBLEM, GRID.levels),
        "grid: NoiseLevel was given, NoiseGrid is needed",
    ),
    "function to learn": (lambda: sp.learn(sp.SAMPLERS["dps"], PROBLEM, GRID.levels), NO_SAMPLER),
    "function to heuristic": (
        lambda: sp.heuristic(sp.SAMPLERS["dps"], PROBLEM, GRID.levels),
        NO_SAMPLER,
    ),
    "function to for_network": (
        lambda: sp.for_network(sp.SAMPLERS["dps"], GRID.levels),
        NO_SAMPLER,
    ),
    "function to plateau": (
        lambda: sp.plateau(sp.SAMPLERS["dps"], PROBLEM, GRID.levels, GUIDANCE),
        NO_SAMPLER,
    ),
    "function to its gradient": (
        lambda: sp.loss_and_gradient(sp.SAMPLERS["dps"], PROBLEM, GRID.levels, GUIDANCE, "zeta"),
        NO_SAMPLER,
    ),
    "function to a step": (
        lambda: sp.step_transfer(sp.SAMPLERS["dps"], PROBLEM, LEVEL, LEVEL, GUIDANCE),
        NO_SAMPLER,
    ),
    "function to another form": (
        lambda: sp.to_literal(sp.SAMPLERS["dps"], PROBLEM, GRID.levels, GUIDANCE),
        NO_SAMPLER,
    ),
    "grey crop, prior of colour": (
        lambda: sp.extended(Y[..., :4, :4], COLOUR, BLUR, None, sigma_y=SIGMA_Y),
        r"measurement of shape .*: the prior is of 3 planes",
    ),
    "name to restore": (lambda: restored("dps"), "sampler: str was given, Sampler is needed"),
    "tuple to learn": (
        lambda: sp.learn(DPS, MERGED, GRID.levels),
        "problem: ArrayImpl was given, Problem is needed .the first of what `unique_modes`",
    ),
    "tuple to evaluate": (
        lambda: sp.evaluate(DPS, MERGED, GRID.levels, GUIDANCE),
        "problem: tuple was given",
    ),
    "name of an objective": (
        lambda: sp.evaluate(DPS, PROBLEM, GRID.levels, GUIDANCE, "mse"),
        "objective = 'mse': a function is needed, such as sp.mse",
    ),
    "weights alone": (
        lambda: restored(guidance=GUIDANCE["zeta"]),
        "guidance: ArrayImpl was given, Mapping is needed",
    ),
    "weights by band": (
        lambda: sp.evaluate(DPS, PROBLEM, GRID.levels, GUIDANCE | {"zeta": np.ones((STEPS, 2))}),
        r"\(3, 2\): \(3,\) is needed, one weight per step, or \(3, 64\): `sp.per_mode`",
    ),
    "seed": (lambda: restored(key=0), r"key = 0: a key is needed, such as jax.random.key\(0\)"),
    "seed to measure": (lambda: sp.measure(BLUR, Y, SIGMA_Y, 0), "key = 0: a key is needed"),
    "several keys": (
        lambda: restored(key=jax.random.split(KEY, 2)),
        r"key: \(2,\) keys were given, one is needed",
    ),
    "misspelt constraint": (
        lambda: replace(DPS, constraint={"zeta": "non-negative", "eta": "unit"}),
        "constraint of zeta = 'non-negative': allowed are nonnegative, unit",
    ),
    "unknown state": (lambda: replace(DPS, state="x0"), "state = 'x0': allowed are x_t, x_0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_is_one_line(name):
    call, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        call()


def test_a_schedule_says_only_what_is_so():
    @factory
    def impostor(*, scale: float = 0.3) -> sp.Sampler:
        return replace(DPS, summary=f"not DPS, {scale}")

    def of(sampler=DPS, sigma_y=SIGMA_Y, grid=GRID, guidance=GUIDANCE, **others):
        return sp.Schedule.of(sampler, PRIOR, BLUR, sigma_y, grid, guidance, **others)

    short = {name: weights[1:] for name, weights in GUIDANCE.items()}
    for given, message in (
        ({"sampler": impostor()}, "sampler 'dps': is not what SAMPLERS has under this name"),
        ({"sigma_y": -1.0}, "sigma_y = -1: must be > 0"),
        ({"guidance": {"foo": GUIDANCE["zeta"]}}, "foo"),
        ({"guidance": short}, r"of shape \(2,\): \(3,\) is needed"),
        ({"guidance": GUIDANCE | {"zeta": -GUIDANCE["zeta"]}}, "guidance.zeta: all values must be"),
        ({"guidance": GUIDANCE | {"zeta": np.nan * GUIDANCE["zeta"]}}, "guidance.zeta: all values"),
    ):
        with pytest.raises(InputError, match=message):
            of(**given)
    for timesteps, message in (
        ((900, 500), "2 were given for 3 steps"),
        ((100, 500, 900), "must descend"),
        ((900, 500.5, 100), "timesteps = 500.5: must be a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            of(grid=GRID.levels, timesteps=timesteps)
    assert of(grid=GRID.levels, timesteps=np.array([900, 500, 100])).timesteps == (900, 500, 100)
    learned = sp.NoiseLevel(GRID.levels.alpha, GRID.levels.sigma)
    schedule = of(grid=learned)
    assert schedule.timesteps is None and schedule.levels is not None
    np.testing.assert_array_equal(schedule.levels.alpha, learned.alpha)
    # Of another number of planes, or noise, norms are others.
    three = of(channels=3)
    for problem, message in (
        (PROBLEM, "problem: 1 planes, the schedule is for 3"),
        (sp.image_problem(PRIOR, BLUR, 0.5, channels=3), "sigma_y is 0.5, the schedule's 0.1"),
    ):
        with pytest.raises(InputError, match=message):
            sp.export_schedule(three, "dps", problem)
    sp.export_schedule(three, "dps", sp.image_problem(PRIOR, BLUR, SIGMA_Y, channels=3))


BENT = {
    "linear": (lambda x: 2 * x, None),
    "clipped": (lambda x: jnp.clip(x, -1, 1), "is not linear"),
    "squashed": (jnp.tanh, "is not linear"),
    "squared": (lambda x: x + x**2, "is not linear"),
    "thresholded": (lambda x: jnp.sign(x) * jnp.maximum(abs(x) - 0.01, 0), "is not linear"),
    "shifted": (lambda x: x + 0.1, "adds a constant"),
    "centred": (lambda x: x - jnp.mean(x), "mixes modes"),
}


@factory
def bent(*, how: str = "linear") -> sp.Sampler:
    change = BENT[how][0]

    def update(denoise, measurement, step):
        h = measurement.response
        x_hat = change(denoise(step.x_t, step.t))
        x_hat = x_hat + step.guidance["pull"] * h * (step.y - h * x_hat)
        return ddim_step(step, x_hat, noise_estimate(step.x_t, x_hat, step.t), 0.0)

    def defaults(problem, levels, factor):
        return {"pull": constant(0.5 * factor, levels)}

    return sp.Sampler("bent", update, defaults, {"pull": "nonnegative"}, "none", "none")


@pytest.mark.parametrize("how", BENT)
def test_an_update_of_which_no_closed_form_holds_is_refused(how):
    sampler, (_, wrong) = bent(how=how), BENT[how]
    guidance = sampler.defaults(PROBLEM, GRID.levels, 1.0)
    given = sampler, PROBLEM, GRID.levels, guidance
    if wrong is None:
        assert np.isfinite(sp.evaluate(*given))
        assert np.isfinite(jax.jit(lambda g: sp.evaluate(*given[:3], g))(guidance))
        return
    for call in (
        lambda: sp.evaluate(*given),
        lambda: sp.learn(*given[:3]),
        lambda: sp.loss_and_gradient(*given, ("pull",)),
        lambda: sp.step_transfer(sampler, PROBLEM, LEVEL, LEVEL, {"pull": 0.5}),
    ):
        with pytest.raises(InputError, match=f"sampler 'bent': its update {wrong}"):
            call()


def test_a_sampler_that_was_put_together_by_hand_is_tried_too():
    for how, (_, wrong) in BENT.items():
        sampler = replace(bent(how=how), summary="by hand")
        given = sampler, PROBLEM, GRID.levels, sampler.defaults(PROBLEM, GRID.levels, 1.0)
        if wrong is None:
            assert np.isfinite(sp.evaluate(*given))
            continue
        with pytest.raises(InputError, match=f"sampler 'bent': its update {wrong}"):
            sp.evaluate(*given)


@pytest.mark.parametrize(("memory", "returned"), [(1, 0), (1, 2), (2, 1)])
def test_a_sampler_returns_what_it_remembers(memory, returned):
    def update(denoise, measurement, step, *before):
        x_s = denoise(step.x_t, step.t)
        return (x_s, *[x_s] * returned) if returned else x_s

    sampler = replace(bent(), update=update, memory=memory)
    guidance = sampler.defaults(PROBLEM, GRID.levels, 1.0)
    with pytest.raises(InputError, match=f"with memory = {memory} x_s and {memory} more"):
        sp.evaluate(sampler, PROBLEM, GRID.levels, guidance)


def test_a_partial_of_arrays_is_one_program():
    traced = []

    def network(strength, x_t, level):
        traced.append(1)
        return DENOISER(x_t, level) * strength

    ddnm = sp.SAMPLERS["ddnm"]()
    guidance, out = ddnm.heuristic(PROBLEM, GRID.levels), []
    for strength in (1.0, 0.5):
        denoiser = partial(network, jnp.float32(strength))
        run = ddnm, denoiser, BLUR, Y + 0.1, GRID.levels, guidance, KEY
        out.append(sp.restore(*run, sigma_y=SIGMA_Y))
        if strength == 1.0:
            once = len(traced)
    assert len(traced) == once
    assert not np.allclose(*out, rtol=0.1)


def test_a_constant_that_merging_made_unstable_is_tuned_again():
    """A mode of gain 1 and little variance, which a merged one of less gain had hidden."""
    levels, sampler = sp.vp_linear(50), sp.SAMPLERS["reddiff"]()
    spectrum, response = np.array([1.0, 1e-3, 1e-3, 1e-3]), np.array([1.0, 0.7, 0.7, 1.0])
    whole = sp.make_problem(spectrum=spectrum, response=response, sigma_y=0.1)
    merged = sp.make_problem(
        spectrum=spectrum[:2], response=np.array([1.0, 0.8]), sigma_y=0.1, weight=[1.0, 3.0]
    )
    few = sp.Search(starts=1, max_iterations=1, optimizer="adam")
    result = sp.learn(sampler, merged, levels, search=few)
    old = result.baseline_guidance["tuned_constant"]
    loss = float(sp.evaluate(sampler, whole, levels, old))
    new = constant_that_holds(sampler, whole, levels, result, loss)
    published = float(sp.evaluate(sampler, whole, levels, result.baseline_guidance["heuristic"]))
    again = float(sp.evaluate(sampler, whole, levels, new))
    assert again < published and again < loss
    assert loss > 1.05 * result.baselines["tuned_constant"]
    held = constant_that_holds(sampler, whole, levels, result, result.baselines["tuned_constant"])
    assert held is old


def test_numbers_that_are_too_large_are_one_line():
    """What NumPy has no room for, or JAX no type: before it is made."""
    with pytest.raises(InputError, match=r"steps = 1000000000000: must be .* at most 100000"):
        sp.rectified_flow(10**12)
    with pytest.raises(InputError, match=r"train_steps = 10{19}: must be"):
        sp.vp_linear(10, train_steps=10**19)
    with pytest.raises(InputError, match=r"planes = 10{11}: must be"):
        sp.inpaint((4, 4), planes=10**11)
    with pytest.raises(InputError, match="kernel: the sum of its values"):
        sp.from_kernel([[1e308, 1e308]], (4, 4))
    assert sp.inpaint((4, 4), planes=3.0).pixels == (3, 4, 4)
    with pytest.raises(InputError, match=r"std = 1e\+200: must be at most 1e\+100"):
        sp.gaussian_blur((8, 8), std=1e200)


def test_an_error_is_one_line_whatever_was_given():
    with pytest.raises(InputError) as raised:
        sp.gaussian_blur((4, 4), std=np.ones((2, 2)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("shape", "name", "options"),
    [
        ((2100, 2100), "downsample", {"factor": 7}),
        ((4096,), "inpaint", {"mask": [0, 1] * 2048}),
        ((2500, 2500), "inpaint", {"mask": "box", "size": 2100}),
    ],
)
def test_schedules_of_large_images_are_saved(shape, name, options, tmp_path):
    """A trial on a smaller image has other divisors, and no room for a mask."""
    schedule = sp.Schedule(
        sampler_name="dps",
        levels=sp.vp_linear(2),
        guidance={"zeta": np.ones(2), "eta": np.zeros(2)},
        sigma_y=0.1,
        shape=shape,
        degradation_name=name,
        degradation_options=options,
    )
    sp.save_schedule(tmp_path / "schedule.json", schedule)
    assert sp.load_schedule(tmp_path / "schedule.json").degradation_options == options


def test_numbers_of_numpy_and_jax_are_exported():
    schedule = sp.gallery_schedule("dps-gaussian_blur2-s0.05-10")
    changed = replace(
        schedule,
        loss=jnp.float32(0.25),
        sigma_y=jnp.asarray(0.05),
        degradation_options={"std": np.float32(2)},
    )
    plain = replace(schedule, loss=0.25, sigma_y=float(jnp.asarray(0.05)))
    for target in ("npz", "python"):
        assert (
            sp.export_schedule(changed, target).content == sp.export_schedule(plain, target).content
        )


def test_the_nearest_schedule_is_asked_for_by_texts_and_masks():
    nearest = partial(sp.gallery_nearest, "dps")
    assert nearest("gaussian_blur", {"std": "1.9"}, 0.05, 20).name == "dps-gaussian_blur2-s0.05-20"
    mask = (np.arange(64 * 64).reshape(64, 64) % 2).tolist()
    assert nearest("inpaint", {"mask": mask}, 0.05, 20).name == "dps-inpaint-s0.05-20"
    with pytest.raises(InputError, match="the gallery has of dps"):
        nearest("downsample", {"factor": 2, "kernel": np.ones((3, 3)) / 9}, 0.05, 20)
    for steps, sigma_y, says in (("x", 0.05, "steps = x"), (20, "0.05", "sigma_y = 0.05")):
        with pytest.raises(InputError, match=says):
            nearest("gaussian_blur", {}, sigma_y, steps)
