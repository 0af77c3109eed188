"""Fourier samples of real images, against DFTs written out as matrices."""

import json

import jax
import numpy as np
import pytest
import scipy.linalg
from cases import (
    EPS,
    GRIDS,
    NUM_STEPS,
    Twin,
    coordinates,
    even_spectrum,
    literal_steps,
    literal_total,
    random_guidance,
    rounding,
    total,
)
from dense import stationary
from PIL import Image

import spectralpost as sp
from spectralpost.cli import main
from spectralpost.degradations import make_degradation
from spectralpost.errors import InputError
from spectralpost.problem import measurement_noise
from spectralpost.transfer import sampler_transfer

pytestmark = pytest.mark.usefixtures("quick")

RNG = np.random.default_rng(0)
# Of 12 frequencies: both of some pairs, one of others, none, and those that are their own negative.
MASK = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]])
ONE_AXIS = np.array([1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0])
MASKS = {"4x3": MASK, "11": ONE_AXIS, "6": np.array([0, 0, 1, 1, 1, 0])}


def samples(mask: np.ndarray) -> np.ndarray:
    """What a scanner measures of a real image: rows of the unitary DFT, [sampled, n], complex."""
    F = np.ones((1, 1))
    for size in mask.shape:
        F = np.kron(F, scipy.linalg.dft(size, scale="sqrtn"))
    return F[mask.ravel() == 1]


def negative(mask: np.ndarray) -> np.ndarray:
    """The mask at -f."""
    return np.array(
        [
            mask[tuple(-i % n for i, n in zip(at, mask.shape, strict=True))]
            for at in np.ndindex(mask.shape)
        ]
    ).reshape(mask.shape)


@pytest.mark.parametrize("name", MASKS)
def test_is_all_that_noisy_samples_say_of_an_image(name):
    """Real and imaginary parts of all samples, S x + sigma_y n, enter a likelihood by S^T S and
    S^T k alone; they are H^T H and H^T y, with y as the docstring has it. For any mask."""
    mask = MASKS[name]
    degradation = sp.mri(mask.shape, mask=mask)
    n, rows = mask.size, samples(mask)
    S = np.concatenate([rows.real, rows.imag])
    H = np.asarray(degradation.apply(np.eye(n).reshape(n, *mask.shape))).reshape(n, n).T
    np.testing.assert_allclose(H.T @ H, S.T @ S, atol=50 * EPS)
    noisy = RNG.normal(size=len(S))  # nothing of an image in it: also what noise does is right
    k = np.zeros(mask.shape, complex)
    k[mask == 1] = noisy[: len(rows)] + 1j * noisy[len(rows) :]
    h = np.sqrt((mask + negative(mask)) / 2)
    y = np.fft.ifftn(np.divide(k, h, where=h > 0, out=np.zeros_like(k)), norm="ortho").real
    np.testing.assert_allclose(np.ravel(degradation.adjoint(y)), S.T @ noisy, atol=50 * EPS)
    np.testing.assert_allclose(degradation.response, h.ravel(), atol=2 * EPS)


def test_noise_of_samples_is_white_in_the_zero_filled_image():
    """Where a mask is its own mirror image. Real and imaginary part of standard deviation 1: the
    covariance of the known coordinates of real(ifftn(k)) is 1, of the others 0."""
    mask = np.maximum(MASK, negative(MASK))
    degradation, rows = sp.mri(mask.shape, mask=mask), samples(mask)
    to_image = np.concatenate([rows.real, rows.imag]).T  # real(F^H k) for k of the mask
    modes = np.asarray(degradation.to_measurement_modes(to_image.T.reshape(-1, *mask.shape))).T
    np.testing.assert_allclose(modes @ modes.T, np.diag(mask.ravel()), atol=50 * EPS)


@pytest.mark.parametrize("shape", [(32,), (33,), (8, 64), (6, 12), (5, 320)])
@pytest.mark.parametrize(("acceleration", "centre"), [(4, 0.08), (8, 0.04), (2, 0.3), (3, 0)])
def test_lines_are_a_share_with_the_centre_among_them(shape, acceleration, centre):
    """Whole lines in pairs, at most one more than wanted, others by another seed."""
    n = shape[-1]
    found = [sp.mri(shape, acceleration, centre, seed).response.reshape(shape) for seed in range(9)]
    for response in found:
        assert set(np.unique(response)) <= {0, 1}
        np.testing.assert_array_equal(response, np.broadcast_to(response.reshape(-1, n)[0], shape))
        lines = response.reshape(-1, n)[0]
        assert 0 <= lines.sum() - round(n / acceleration) <= 1
        assert np.all(lines[np.abs(np.fft.fftfreq(n)) < centre / 2] == 1)
        np.testing.assert_array_equal(lines, negative(lines))
    assert len({response.tobytes() for response in found}) > 1
    np.testing.assert_array_equal(
        found[0], sp.mri(shape, acceleration, centre).response.reshape(shape)
    )


def test_each_line_outside_of_the_centre_is_as_likely():
    """Pairs are drawn evenly: counts of 2000 seeds within 5 of their standard errors."""
    lines = np.mean([sp.mri((33,), seed=seed).response for seed in range(2000)], axis=0)
    np.testing.assert_array_equal(lines[[0, 1, -1]], 1)
    share = 6 / 30  # 8 wanted: the centre's 3, and 3 of 15 pairs
    assert np.abs(lines[2:-1] - share).max() < 5 * np.sqrt(share * (1 - share) / 2000)


def test_all_is_known_without_acceleration():
    for degradation in (sp.mri((5, 6), 1.0), sp.mri((5, 6), mask=np.ones((5, 6)))):
        np.testing.assert_array_equal(degradation.response, 1)
        x = RNG.normal(size=(5, 6))
        np.testing.assert_allclose(degradation.apply(x), x, atol=20 * EPS)


def twin() -> Twin:
    """`mri` and its coordinates; H by real and imaginary parts of the rows of a DFT, each pair of
    conjugates once: sqrt(2) larger where it is sampled twice."""
    rng = np.random.default_rng(5)
    prior = sp.Prior(
        even_spectrum(MASK.shape, rng), rng.normal(size=MASK.shape), (-1.0, 1.0), "test"
    )
    degradation, sigma_y = sp.mri(MASK.shape, mask=MASK), 0.4
    rows = []
    for at in np.ndindex(MASK.shape):
        conjugate = tuple(-i % n for i, n in zip(at, MASK.shape, strict=True))
        if MASK[at] and (at <= conjugate or not MASK[conjugate]):
            alone = np.zeros(MASK.shape)
            alone[at] = 1
            row = samples(alone)[0] * (np.sqrt(2) if at != conjugate and MASK[conjugate] else 1)
            rows += [row.real] if at == conjugate else [row.real, row.imag]
    V, _ = coordinates(degradation)
    H, h = np.stack(rows), np.asarray(degradation.response)
    U = np.where(h > 0, H @ V / np.where(h > 0, h, 1), 0)
    problem = sp.image_problem(prior, degradation, sigma_y)
    return Twin(problem, H, prior.mean.ravel(), stationary(prior.spectrum), sigma_y, V, U)


@pytest.mark.parametrize("name", ["dps", "ddrm", "diffpir", "reddiff"])
def test_transfer_is_the_literal_algorithm_on_samples(name):
    """U has no column for unknown frequencies: what y holds there has no gain."""
    case, levels, guidance = twin(), GRIDS["vp_linear"](NUM_STEPS), random_guidance(name, 0)
    A, B, Q, c = literal_total(name, case, levels, guidance)
    _, bound = rounding(case, levels, literal_steps(name, case, levels, guidance))
    assert bound < 1e-9 * np.abs(A).max() + 1e-9 * np.abs(B).max()
    found, V = total(name)(case.problem, levels, guidance), case.V
    for gain, wanted in (
        (found.state_gain, V.T @ A @ V),
        (found.data_gain, V.T @ B @ case.U),
        (found.noise_cov, V.T @ Q @ V),
    ):
        np.testing.assert_allclose(np.diag(gain), wanted, rtol=0, atol=bound)
    shifted = V.T @ (c - case.mu + B @ case.H @ case.mu)
    np.testing.assert_allclose(found.offset, shifted, rtol=0, atol=bound)
    unknown = np.asarray(case.problem.response) == 0
    assert unknown.sum() == 5
    np.testing.assert_array_equal(found.data_gain[unknown], 0)


def test_restored_images_have_the_predicted_law():
    """4096 runs of DPS on samples of one image: mean and variance of each frequency."""
    shape, runs = (8, 8), 4096
    degradation = sp.mri(shape, 2.0, 0.3)
    assert set(degradation.response) == {0, 1}
    prior = sp.power_law(shape, mean=0.2)
    problem = sp.image_problem(prior, degradation, 0.2)
    sampler, levels = sp.SAMPLERS["dps"](), sp.vp_linear(4)
    guidance = random_guidance("dps", 1, 4)
    y = sp.measure(degradation, sp.draw(prior, 1)[0], 0.2, jax.random.key(0))
    given = sampler, sp.GaussianDenoiser.of(prior), degradation, y, levels, guidance
    found = sp.simulate(*given, jax.random.key(1), sigma_y=0.2, num_runs=runs, batch_size=512)
    transfer = sampler_transfer(sampler, problem, levels, guidance)
    centred = degradation.to_measurement_modes(y) - problem.response * problem.mean
    mean = problem.mean + transfer.data_gain * centred + transfer.offset
    var = transfer.state_gain**2 + transfer.noise_cov
    assert np.all(np.abs(found.mean - mean) < 5 * np.sqrt(var / runs))
    assert np.all(np.abs(found.var / var - 1) < 5 * np.sqrt(2 / runs))


def test_noise_is_measured_where_it_is_predicted():
    """At unknown frequencies too, as where a blur has no response: norms of samplers count it."""
    degradation = sp.mri((8, 8))
    problem = sp.image_problem(sp.power_law((8, 8)), degradation, 0.3)
    y = sp.measure(degradation, np.zeros((2000, 8, 8)), 0.3, jax.random.key(0))
    found = np.var(degradation.to_measurement_modes(y), axis=0)
    z = found / measurement_noise(problem) - 1
    assert np.abs(z).max() < 5 * np.sqrt(2 / 2000)


def test_is_made_again_from_a_file():
    made = [sp.mri((4, 3), mask=MASK), sp.mri((4, 3), 2, 0.1, 3), sp.mri((4, 3), 3)]
    assert len(set(made)) == 3
    for degradation in made:
        options = json.loads(json.dumps(degradation.options))
        assert make_degradation("mri", (4, 3), **options) == degradation
    assert sp.mri((4, 3), mask=MASK.tolist()) == sp.mri((4, 3), mask=MASK.astype(bool))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sp.mri((8, 8), 0.9), "acceleration = 0.9: must be >= 1"),
        (lambda: sp.mri((8, 8), np.nan), "acceleration = nan: must be >= 1"),
        (lambda: sp.mri((8, 8), 20.0), "acceleration = 20.0: leaves none of 8 lines"),
        (lambda: sp.mri((8, 8), centre=-0.1), "centre = -0.1: must be >= 0 and <= 1"),
        (lambda: sp.mri((8, 8), centre=1.1), "centre = 1.1: must be >= 0 and <= 1"),
        (
            lambda: sp.mri((8, 32), 4.0, 0.5),
            "centre = 0.5: 15 of 32 lines; acceleration = 4.0 wants 8",
        ),
        (lambda: sp.mri((8, 8), seed=-1), "seed = -1: must be a whole number >= 0"),
        (lambda: sp.mri((3, 4), mask=MASK), r"mask of shape \(4, 3\): \(3, 4\) is needed"),
        (lambda: sp.mri((4, 3), mask=0.5 * MASK), "must be 0 .* or 1"),
        (lambda: sp.mri((4, 3), mask=0 * MASK), "mask: knows no frequency"),
        (lambda: sp.mri((4, 3), mask="random"), "mask: an array of 0 and 1 is needed"),
        (lambda: sp.on_canvas(sp.mri((8, 8))), "'mri': crops are extended for blurs alone"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_commands_learn_and_restore(tmp_path):
    """A schedule beats the published one; an image that is restored with it is no crop."""
    options = ["--size", "32", "--steps", "4", "--starts", "2", "--bins", "128"]
    design = ["design", "--degradation", "mri", "--degradation-options", "acceleration=3"]
    assert not main([*design, *options, "--out", str(tmp_path / "d")])
    found = json.loads((tmp_path / "d" / "metrics.json").read_text())
    rows = found["average image"]
    assert rows["learned"]["W2^2"] < rows["heuristic"]["W2^2"]
    schedule = ["--schedule", str(tmp_path / "d" / "schedule.json")]
    assert sp.load_schedule(schedule[1]).degradation() == sp.mri((32, 32), 3.0)
    image = str(tmp_path / "image.png")
    Image.fromarray(RNG.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(image)
    assert not main(["restore", image, *schedule, "--out", str(tmp_path / "r")])
    with pytest.raises(SystemExit, match="2"):
        main(["restore", image, *schedule, "--borders", "extend"])
