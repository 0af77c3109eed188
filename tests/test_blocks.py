"""Super-resolution, inpainting and given matrices: degradations in blocks, from pixels to learning.

That every sampler's transfer on them is the literal algorithm's: test_transfer, by `cases.BLOCKS`.
"""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from cases import ALL, EPS, coordinates, decimated, decimation, many_blocks, random_guidance
from commandline import by_adam  # noqa: F401
from PIL import Image

import spectralpost as sp
from spectralpost import algebra, chunks
from spectralpost.algebra import eigh, inverse, log_det, product, reflection
from spectralpost.cli import main
from spectralpost.degradations import make_degradation
from spectralpost.errors import InputError
from spectralpost.learning import prepare
from spectralpost.learning.jacobian import linearise
from spectralpost.metrics import wasserstein2_residuals
from spectralpost.objectives import RESIDUALS
from spectralpost.prior_file import save_prior
from spectralpost.problem import basis_matrix, prior_cov
from spectralpost.transfer import sampler_transfer, step_transfer, trajectory

pytestmark = pytest.mark.usefixtures("quick")

RNG = np.random.default_rng(0)
MASK = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
MATRIX = RNG.normal(size=(5, 12))
KERNEL = RNG.normal(size=(3, 4))
ZOO = {
    "1-D average": (sp.downsample((12,), 3, "average"), decimation(12, 3, "average")),
    "1-D bicubic": (sp.downsample((16,), 4), decimation(16, 4, "bicubic")),
    "wider than the image": (sp.downsample((4,), 2), decimation(4, 2, "bicubic")),
    "2-D bicubic": (
        sp.downsample((4, 6), 2),
        np.kron(decimation(4, 2, "bicubic"), decimation(6, 2, "bicubic")),
    ),
    "2-D bicubic, x3": (
        sp.downsample((6, 9), 3),
        np.kron(decimation(6, 3, "bicubic"), decimation(9, 3, "bicubic")),
    ),
    "2-D bicubic, x8": (
        sp.downsample((8, 16), 8),
        np.kron(decimation(8, 8, "bicubic"), decimation(16, 8, "bicubic")),
    ),
    "inpaint": (sp.inpaint((4, 3), MASK), np.diag(MASK.ravel()).astype(float)),
    "matrix": (sp.from_matrix((4, 3), MATRIX), MATRIX),
    "function": (sp.from_matrix((4, 3), lambda x: x[::2].sum(axis=1)), None),
    "function of two axes": (
        sp.from_matrix((4, 3), lambda x: x[::2]),
        np.kron(np.array([[1, 0, 0, 0], [0, 0, 1, 0]]), np.eye(3)),
    ),
}


def matrix_of(function, shape):
    """Columns: the function at unit images."""
    n = int(np.prod(shape))
    return np.asarray(function(np.eye(n).reshape(n, *shape))).reshape(n, -1).T


# ------------------------------------------------------------------------------------ degradations


@pytest.mark.parametrize("name", ZOO)
def test_blocks_are_a_singular_value_decomposition_in_which_priors_are_blocks(name):
    """H as written out elsewhere; V orthogonal, H = U diag(h) V^T, H^T its adjoint; the covariance
    of a stationary prior in V^T x."""
    degradation, H = ZOO[name]
    shape, n = degradation.shape, int(np.prod(degradation.shape))
    found = matrix_of(degradation.apply, shape)
    if H is None:
        H = np.kron(np.array([[1, 0, 0, 0], [0, 0, 1, 0]]), np.ones((1, 3)))
    size = 100 * EPS * np.abs(H).max()
    np.testing.assert_allclose(found, H, atol=size)
    np.testing.assert_allclose(matrix_of(degradation.adjoint, degradation.measured), H.T, atol=size)
    V, U = coordinates(degradation)
    np.testing.assert_allclose(matrix_of(degradation.to_modes, shape), V.T, atol=100 * EPS)
    np.testing.assert_allclose(V.T @ V, np.eye(n), atol=100 * EPS)
    np.testing.assert_allclose((U * degradation.response.ravel()) @ V.T, H, atol=size)
    prior = sp.power_law(shape)
    problem = sp.image_problem(prior, degradation, 0.1)
    blocks = scipy.linalg.block_diag(*np.asarray(prior_cov(problem)))
    scale = prior.spectrum.max()
    np.testing.assert_allclose(
        V.T @ dense.stationary(prior.spectrum) @ V, blocks, atol=100 * EPS * scale
    )


@pytest.mark.parametrize("k", range(2, 9))
def test_small_eigenvalues_have_converged(k):
    """Of thousands of random matrices, some with variances over twelve decades: six sweeps left
    1e-6 of some of 8 rows."""
    random = np.random.default_rng(k)
    A = random.normal(size=(4000, k, k))
    A[::2] = np.linalg.qr(A[::2])[0] * 10 ** random.uniform(-6, 0, (2000, 1, k))
    A = A @ A.mT
    values, vectors = eigh(jnp.asarray(A))
    again = np.asarray((vectors * values[:, None]) @ vectors.mT)
    size = np.linalg.norm(A, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(again / size, A / size, atol=10 * k * EPS)


@pytest.mark.parametrize("offset", [0, 1])
def test_given_kernels_are_convolved_then_decimated(offset):
    x = RNG.normal(size=(2, 6, 8))
    blurred = sp.from_kernel(KERNEL, (6, 8)).apply(x)[:, offset::2, offset::2]
    found = sp.downsample((6, 8), 2, KERNEL, offset=offset).apply(x)
    np.testing.assert_allclose(found, blurred, atol=100 * EPS * np.abs(KERNEL).sum())
    gaussian = sp.gaussian_blur((6, 8), 1.0).apply(x)[:, offset::2, offset::2]
    found = sp.downsample((6, 8), 2, "gaussian", offset=offset).apply(x)
    np.testing.assert_allclose(found, gaussian, atol=100 * EPS)


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_bicubic_is_that_of_pillow_away_from_the_border(factor):
    """In single precision there; a kernel reaches two pixels of the small image."""
    x = RNG.normal(size=(8 * factor, 10 * factor)).astype(np.float32)
    theirs = np.asarray(Image.fromarray(x).resize((10, 8), Image.Resampling.BICUBIC))
    ours = np.asarray(sp.downsample(x.shape, factor).apply(x.astype(float)))
    np.testing.assert_allclose(ours[2:-2, 2:-2], theirs[2:-2, 2:-2], atol=1e-5)


def test_a_function_of_jax_is_the_matrix_of_the_same_in_numpy():
    """Also one that is compiled, and gives single precision."""
    same = [
        sp.from_matrix((4, 3), function)
        for function in (
            lambda x: x[::2].sum(axis=1),
            lambda x: jnp.sum(x[::2], axis=1),
            jax.jit(lambda x: jnp.sum(x[::2], axis=1, dtype=jnp.float32)),
        )
    ]
    for one in same[1:]:
        assert one.measured == same[0].measured
        np.testing.assert_array_equal(one.options["matrix"], same[0].options["matrix"])


def test_a_block_degradation_is_made_again_from_a_file():
    for degradation, _ in ZOO.values():
        options = json.loads(json.dumps(degradation.options))
        again = make_degradation(degradation.name, degradation.shape, **options)
        assert again == degradation
        assert hash(again) == hash(degradation)
        assert again.measured == degradation.measured


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: sp.downsample((6, 9), 2), "size 6x9; it divides 6x8"),
        (lambda: sp.downsample((6, 6), 0), "factor = 0"),
        (lambda: sp.downsample((6, 6), 2, "lanczos"), "allowed are bicubic, average"),
        (lambda: sp.downsample((6, 6), 2, std=1.0), "is of kernel = 'gaussian' alone"),
        (lambda: sp.downsample((6, 6), 2, "gaussian", offset=2), "allowed are 0 to 1"),
        (lambda: sp.downsample((6, 6), 2, offset=1), "bicubic has its own place"),
        (lambda: sp.downsample((6, 6), 2, np.full((2, 2), np.nan)), "must be finite"),
        (lambda: sp.inpaint((4, 4), MASK), r"mask of shape \(4, 3\): \(4, 4\) is needed"),
        (lambda: sp.inpaint((4, 3), 0.5 * MASK), "must be 0 .* or 1"),
        (lambda: sp.inpaint((4, 3), 0 * MASK), "knows no pixel"),
        (lambda: sp.inpaint((4, 3), "stripes"), "allowed are random, box"),
        (lambda: sp.inpaint((4, 3), keep=0.0), "keep = 0.0"),
        (lambda: sp.inpaint((4, 3), "box", size=5), "larger than the 4x3 image"),
        (lambda: sp.from_matrix((4, 4), MATRIX), r"\(m, 16\) is needed"),
        (lambda: sp.from_matrix((4, 3), np.nan * MATRIX), "must be finite"),
        (
            lambda: sp.from_matrix((64, 64), MATRIX),
            "at most 1024 pixels; allowed of larger images are blurs, decimations and .*mosaic",
        ),
        (lambda: sp.from_matrix((4, 3), lambda x: x**2), "degradation: is not linear"),
        (lambda: sp.from_matrix((4, 3), lambda x: x[x > 0]), r"gives \(\d,\) for one image and"),
        (lambda: sp.from_matrix((4, 3), lambda x: 1j * x), "gives no array of real numbers"),
        (lambda: sp.from_matrix((4, 3), lambda x: None), "gives no array of real numbers"),
        (lambda: sp.from_matrix((4, 3), MATRIX, (2, 3)), r"measured = \(2, 3\): .* 5 numbers"),
        (
            lambda: sp.make_problem([[1.0, 1.0]], [[1.0, 1.0]], 0.1, basis=[[1.0, 0.0]]),
            "reflections for a basis, only the first mode has one",
        ),
        (
            lambda: sampler_transfer(
                sp.SAMPLERS["dps"](),
                many_blocks(2).problem,
                sp.vp_linear(3),
                {"zeta": np.ones((3, 12)), "eta": np.ones(3)},
            ),
            "low_pass, per_mode.* are for independent modes, not blocks",
        ),
        (lambda: sp.on_canvas(sp.downsample((8, 8), 2)), "'downsample': crops are extended for"),
        (
            lambda: sp.image_problem(sp.power_law((64, 64)), sp.inpaint((64, 64)), 0.1),
            "one block of 64x64 pixels, at most 1024 are possible; inpainting_problem models masks",
        ),
    ],
)
def test_wrong_input_is_one_line(make, says):
    with pytest.raises(InputError, match=says) as error:
        make()
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------------- small matrices, merging


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 12])
def test_roots_products_and_their_slopes(k):
    """Against SciPy; slopes against central differences, where two eigenvalues are equal as well,
    and finite where one is zero."""
    matrices = RNG.normal(size=(5, k, k))
    vectors = np.linalg.qr(matrices)[0]
    values = RNG.uniform(0.1, 3, (5, k))
    values[1] = 1.0
    values[2, -1] = values[2, 0]
    cov = vectors * values[:, None, :] @ vectors.mT
    root, slope = jax.jit(algebra.root), jax.jit(partial(jax.jvp, algebra.root))
    np.testing.assert_allclose(product(jnp.asarray(cov), jnp.asarray(matrices)), cov @ matrices)
    w, v = map(np.asarray, eigh(jnp.asarray(cov)))
    np.testing.assert_allclose(v * w[:, None, :] @ v.mT, cov, atol=100 * EPS)
    np.testing.assert_allclose(v.mT @ v, np.broadcast_to(np.eye(k), v.shape), atol=100 * EPS)
    expected = vectors * np.sqrt(values)[:, None, :] @ vectors.mT
    np.testing.assert_allclose(root(jnp.asarray(cov)), expected, atol=1e3 * EPS)
    step = RNG.normal(size=(5, k, k))
    step = step + step.mT
    found = slope((jnp.asarray(cov),), (jnp.asarray(step),))[1]
    h = 1e-5  # errors of h^2 and of EPS / h, both below 1e-9 in units of third derivatives
    differences = (np.asarray(root(cov + h * step)) - np.asarray(root(cov - h * step))) / (2 * h)
    np.testing.assert_allclose(found, differences, atol=1e-6)
    values[:, 0] = 0
    cov = vectors * values[:, None, :] @ vectors.mT
    gradient = jax.jit(jax.grad(lambda cov: algebra.root(cov).sum()))
    assert np.all(np.isfinite(gradient(jnp.asarray(cov))))


@pytest.mark.parametrize("k", [2, 4, 12])
def test_inverses_and_determinants_and_their_slopes(k):
    """Against NumPy, one batch and many, alone and mapped."""
    cov = RNG.normal(size=(2, 5, k, k))
    cov = cov @ cov.mT + np.eye(k)
    step = RNG.normal(size=cov.shape)
    inverted = np.linalg.inv(cov)
    for function, value, slope in (
        (inverse, inverted, -inverted @ step @ inverted),
        (log_det, np.linalg.slogdet(cov)[1], np.trace(inverted @ step, axis1=-2, axis2=-1)),
    ):
        for run in (function, jax.jit(jax.vmap(function))):
            found = jax.jvp(run, (jnp.asarray(cov),), (jnp.asarray(step),))
            jax.tree.map(partial(np.testing.assert_allclose, atol=1e3 * EPS), found, (value, slope))
            gradient = jax.vjp(run, jnp.asarray(cov))[1](jnp.asarray(value))[0]
            np.testing.assert_allclose(np.vdot(gradient, step), np.vdot(value, slope), rtol=1e-11)


def test_many_functions_of_many_blocks_at_once_do_not_wait_for_each_other():
    """In jaxlib before 0.11.2 two of LAPACK's at once, each for a batch, stand still on two cores
    (a process of its own: what stands still cannot be stopped). Compiled quickly, too: LAPACK's
    functions taken as they are stand still either way."""
    program = """
import jax, jax.numpy as jnp
from spectralpost.algebra import inverse, log_det, root
x = jax.random.normal(jax.random.key(0), (8, 96, 16, 16))
cov = x @ x.mT + jnp.eye(16)
run = jax.jit(lambda cov: [(root(x), inverse(x), log_det(x)) for x in cov])
for _ in range(20):
    jax.block_until_ready(run(cov))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


EVERY_METRIC = (*RESIDUALS, sp.kl, sp.predicted_energy_score)


@partial(jax.jit, static_argnames=("name", "metrics"))
def losses_on(problem, name, metrics=(sp.wasserstein2,)):
    """In one program, as that of the transfer is most of each."""
    sampler, levels = ALL[name].make(problem), sp.ve_karras(4, sigma_max=3.0, sigma_min=0.1)
    guidance = random_guidance(name, seed=3, num_steps=4)
    transfer = sampler_transfer(sampler, problem, levels, guidance)
    return jnp.stack([metric(problem, transfer) for metric in metrics])


@pytest.mark.parametrize(("shape", "factor", "left"), [((12, 12), 2, 10), ((9, 9), 3, 3)])
def test_equal_blocks_are_merged_and_no_loss_changes(shape, factor, left):
    """Of the 36 and 9 blocks of two isotropic problems 10 and 3 are left: equal by symmetry."""
    problem = sp.image_problem(sp.power_law(shape, mean=0.2), sp.downsample(shape, factor), 0.1)
    small, index = sp.unique_modes(problem)
    assert small.spectrum.shape == (left, factor**2)
    assert index.shape == problem.weight.shape
    assert float(small.weight.sum()) == float(problem.weight.sum())
    for name in ("dps", "diffpir"):
        found, whole = (losses_on(one, name, EVERY_METRIC) for one in (small, problem))
        np.testing.assert_allclose(found, whole, rtol=1e-9)


def test_a_block_of_two_variances_is_a_pair_exactly():
    """Whatever k: of equal variances only the direction that is measured is not independent."""
    shape = (12, 12)
    spectrum = np.where(sp.power_law(shape).spectrum > 0.3, 2.0, 0.05)
    prior = sp.Prior(spectrum, np.zeros(shape), (-1.0, 1.0), "two values")
    problem = sp.image_problem(prior, sp.downsample(shape, 3, "gaussian"), 0.1)
    pairs, _ = sp.bin_modes(problem, 64)
    assert pairs.spectrum.shape[1] == 2
    assert float(2 * pairs.weight.sum()) == pytest.approx(spectrum.size)
    for name in ("dps", "ddrm", "tmpd"):
        whole, found = (float(losses_on(one, name)[0]) for one in (problem, pairs))
        assert found == pytest.approx(whole, rel=1e-9)


def test_binned_blocks_are_close():
    """A 24x24 problem of 36 blocks of 16 in pairs and in triples: within a per cent of W2^2."""
    problem = sp.image_problem(sp.power_law((24, 24)), sp.downsample((24, 24), 4), 0.05)
    whole = float(losses_on(problem, "diffpir")[0])
    for bins, size in ((128, 2), (306, 3)):
        small, _ = sp.bin_modes(problem, bins)
        assert small.spectrum.shape[1] == size
        assert small.spectrum.shape[0] * size**2 <= bins
        found = float(losses_on(small, "diffpir")[0])
        assert found == pytest.approx(whole, rel=0.01)


def test_the_block_of_the_mean_grey_value_stays_alone():
    """One block of very large variance: merged with another it could blow up unseen."""
    prior = sp.power_law((32, 32))
    prior.spectrum[0, 0] = 4000.0
    small, _ = sp.bin_modes(sp.image_problem(prior, sp.downsample((32, 32), 4), 0.05), 128)
    assert float(small.spectrum.max()) == pytest.approx(4000, rel=1e-3)
    assert float(small.weight[np.argmax(small.spectrum.max(axis=1))]) == 1


# ------------------------------------------------------------------ what needs no matrix of blocks


def as_matrices(problem):
    """The same problem with matrices for eigenvectors: no reflections are made use of."""
    return problem._replace(basis=basis_matrix(problem))


@pytest.mark.parametrize(
    "make",
    [
        *(sp.SAMPLERS[name] for name in ("ilvr", "reddiff", "tmpd")),
        lambda: sp.SAMPLERS["dps"](multistep=1),
    ],
)
def test_reflections_are_their_matrices(make, monkeypatch):
    """Blocks of nine by k numbers and in chunks of two, the last filled up; of all matrices and at
    once. Offsets (ILVR), noise seen through the denoiser (RED-diff), a system to solve (TMPD), a
    state of two signals."""
    problem = sp.image_problem(sp.power_law((6, 9), mean=0.2), sp.downsample((6, 9), 3), 0.1)
    problem = jax.tree.map(lambda leaf: leaf[:5] if leaf.ndim else leaf, problem)
    assert problem.basis.shape == (5, 9)
    sampler, levels = make(), sp.vp_linear(3)
    guidance = sampler.heuristic(as_matrices(problem), levels)
    expected = trajectory(sampler, as_matrices(problem), levels, guidance)
    monkeypatch.setattr(chunks, "AT_ONCE", 2 * 9**2)
    assert chunks.num_chunks(problem) == 3
    found = trajectory(sampler, problem, levels, guidance)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e3 * EPS * np.abs(other).max(initial=1))


def test_gradients_by_chunks_of_blocks_are_those_of_all():
    """Of blocks with matrices and with reflections, the last chunk filled up."""
    problem = sp.image_problem(sp.power_law((6, 10), mean=0.2), sp.downsample((6, 10), 2), 0.1)
    sampler, levels = sp.SAMPLERS["ilvr"](), sp.vp_linear(3)
    guidance = sampler.heuristic(problem, levels)

    def loss(guidance):
        return sp.wasserstein2(problem, sampler_transfer(sampler, problem, levels, guidance))

    value, gradient = jax.jit(jax.value_and_grad(loss))(guidance)
    for one in (problem, as_matrices(problem)):
        found = sp.loss_and_gradient(sampler, one, levels, guidance, tuple(guidance), chunk=4 * 16)
        assert float(found[0]) == pytest.approx(float(value), rel=1e3 * EPS)
        size = max(np.abs(by).max() for by in gradient.values())
        for name, by in gradient.items():
            np.testing.assert_allclose(found[1][name], by, rtol=0, atol=1e4 * EPS * size)


def krylov(variance, gain, num):
    """An orthonormal basis of span{a, L a, ..., L^(num - 1) a}, L = diag(variance): [k, num]."""
    return np.linalg.qr(variance[:, None] ** np.arange(num) * gain[:, None])[0]


@pytest.mark.parametrize("different", [1, 2, 3])
def test_a_block_needs_as_many_directions_as_it_has_different_variances(different):
    """In the eigenvectors of the prior, where H = a^T: whatever the sampler, span{a, L a, ...} is
    kept apart from what is across it, which is a number for each variance. No fewer directions do:
    the response to y needs them all. So one (and what is across) is exact where all variances are
    equal, and only there."""
    k, rng = 9, np.random.default_rng(different)
    values = np.array([2.0, 0.5, 0.1])[:different]
    place = np.arange(k) % different
    gain = rng.uniform(0.2, 1, k)
    response = np.eye(1, k) * np.linalg.norm(gain)
    problem = sp.make_problem(values[place][None], response, 0.2, basis=reflection(gain[None]))
    space, fewer = (krylov(values[place], gain, num) for num in (different, different - 1))
    across, levels = np.eye(k) - space @ space.T, sp.vp_linear(4)
    E = np.asarray(basis_matrix(problem))[0]
    for name in ("dps", "diffpir", "ddrm"):
        guidance = random_guidance(name, seed=3, num_steps=4)
        law = sampler_transfer(sp.SAMPLERS[name](), problem, levels, guidance)
        A, N = (E.T @ np.asarray(part)[0] @ E for part in (law.state_gain, law.noise_cov))
        size = 1e3 * EPS * max(1, np.abs(A).max(), np.abs(N).max())
        for part in (A, N):
            np.testing.assert_allclose(across @ part @ space, 0, atol=size)
            shares = np.bincount(place, np.diag(across @ part)) / np.bincount(
                place, np.diag(across)
            )
            np.testing.assert_allclose(across @ part, shares[place][:, None] * across, atol=size)
        answer = E.T @ np.asarray(law.data_gain)[0, :, 0]
        length = np.linalg.norm(answer)
        np.testing.assert_allclose(across @ answer, 0, atol=size * length)
        assert np.linalg.norm(answer - fewer @ (fewer.T @ answer)) > 1e-3 * length


TWO_TERMS = ("mcg",)


@pytest.mark.parametrize("name", sorted(sp.SAMPLERS))
def test_a_step_is_a_number_for_each_mode_and_few_terms_of_rank_one(name):
    """In the eigenvectors of the prior: what is off the diagonal has the rank of as many terms.
    Numbers for each mode are not seen where rows and columns are of different modes."""
    k, gain = 9, np.random.default_rng(0).uniform(0.2, 1, 9)
    response = np.eye(1, k) * np.linalg.norm(gain)
    variances = np.geomspace(2, 0.1, k)[None]
    problem = sp.make_problem(variances, response, 0.2, basis=reflection(gain[None]))
    t, s = sp.NoiseLevel(0.6, 0.8), sp.NoiseLevel(0.8, 0.6)
    sampler = ALL[name].make(problem)
    weights = {key: by[0] for key, by in random_guidance(name, seed=3, num_steps=1).items()}
    step = jax.jit(partial(step_transfer, sampler))(problem, t, s, weights)
    E = np.asarray(basis_matrix(problem))[0]
    seen = (E.T @ np.asarray(step.state_gain)[0] @ E)[:4, 4:]
    sizes = np.linalg.svd(seen, compute_uv=False)
    terms = 2 if name in TWO_TERMS else 1
    assert sizes[terms - 1] > 1e-6 > 1e3 * EPS > sizes[terms]


# ----------------------------------------------------------------------------- learning, restoring


@jax.jit
def sums_and_slopes(guidance):
    """On blocks: the sum of squared residuals and the metric itself, [metrics, 2], and their
    gradients by the weights of a sampler, [metrics, 2, S]. In one program."""
    problem, sampler, levels = many_blocks(3).problem, sp.SAMPLERS["dps"](), sp.vp_linear(4)

    def values(zeta):
        transfer = sampler_transfer(sampler, problem, levels, guidance | {"zeta": zeta})
        both = [
            (jnp.sum(residuals(problem, transfer) ** 2), objective(problem, transfer))
            for objective, residuals in RESIDUALS.items()
        ]
        return jnp.asarray(both), jnp.asarray(both)

    slopes, sums = jax.jacrev(values, has_aux=True)(guidance["zeta"])
    return sums, slopes


@pytest.mark.parametrize("objective", RESIDUALS)
def test_residuals_have_the_sum_and_the_gradient_of_the_metric(objective):
    """The gradient also against central differences."""
    guidance = random_guidance("dps", seed=1, num_steps=4)
    zeta, row = guidance["zeta"], list(RESIDUALS).index(objective)
    at = lambda zeta: [one[row] for one in sums_and_slopes(guidance | {"zeta": zeta})]  # noqa: E731
    (of_residuals, value), (found, expected) = at(zeta)
    np.testing.assert_allclose(of_residuals, value, rtol=1e-10)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    h = 1e-5
    for i, unit in enumerate(np.eye(4)):
        above, below = (at(zeta + step * unit)[0][1] for step in (h, -h))
        np.testing.assert_allclose(expected[i], (above - below) / (2 * h), rtol=1e-5)


@pytest.mark.parametrize("name", ["dps", "diffpir"])
def test_jacobians_of_blocks_are_the_derivatives(name):
    """Of residuals and of the growth of each step's worst mode, against forward differentiation."""
    problem, levels = decimated((6, 2), 2, "bicubic").problem, sp.vp_linear(4)
    sampler, guidance = sp.SAMPLERS[name](), random_guidance(name, seed=1, num_steps=4)

    @jax.jit
    def literally(guidance):
        def values(guidance):
            run = trajectory(sampler, problem, levels, guidance)
            both = wasserstein2_residuals(problem, run.total), jnp.log(run.amplification)
            return both, both

        jacobians, both = jax.jacfwd(values, has_aux=True)(guidance)
        return both, jacobians

    @jax.jit
    def quickly(guidance):
        directions = {name: {name: jnp.ones((1, 4))} for name in sampler.constraint}
        return linearise(sampler, problem, levels, guidance, directions, wasserstein2_residuals)

    expected = zip(*literally(guidance), strict=True)
    for found, (values, jacobian) in zip(quickly(guidance), expected, strict=True):
        np.testing.assert_allclose(found.values, values, atol=1e-10 * np.abs(values).max())
        for weight, by in jacobian.items():
            atol = 1e-8 * np.abs(by).max()
            np.testing.assert_allclose(found.jacobian[weight][0].T, by, rtol=0, atol=atol)


def test_learn_searches_blocks_by_least_squares_and_beats_the_tuned_constant():
    problem = sp.image_problem(sp.power_law((16, 16)), sp.downsample((16, 16), 2), 0.05)
    small = sp.bin_modes(sp.unique_modes(problem)[0], 299)[0]
    sampler, levels = sp.SAMPLERS["dps"](), sp.vp_linear(5)
    assert prepare(sampler, [small], levels).method.optimizer == "lm"
    search = sp.Search(starts=6, max_iterations=60)
    learned = sp.learn(sampler, small, levels, search=search)
    assert learned.loss < learned.baselines["tuned_constant"] < learned.baselines["heuristic"]
    # Of all modes, too, whose blocks are of four.
    losses = [
        float(sp.evaluate(sampler, problem, levels, guidance))
        for guidance in (learned.guidance, learned.baseline_guidance["tuned_constant"])
    ]
    assert losses[0] < losses[1]
    assert losses[0] == pytest.approx(learned.loss, rel=0.02)


@pytest.mark.parametrize("name", ["1-D bicubic", "2-D bicubic", "inpaint", "matrix"])
def test_restored_images_have_the_moments_of_the_closed_form(name):
    """Mean and variance of 4096 runs of DiffPIR, mode by mode, within 5 standard errors."""
    degradation, _ = ZOO[name]
    prior = sp.power_law(degradation.shape, mean=0.1)
    problem = sp.image_problem(prior, degradation, 0.2)
    sampler, levels = sp.SAMPLERS["diffpir"](), sp.vp_linear(4)
    guidance = sampler.heuristic(problem, levels)
    x_0 = sp.draw(prior, 1)[0]
    y = sp.measure(degradation, x_0, 0.2, jax.random.key(0))
    assert y.shape == degradation.measured
    given = sampler, sp.GaussianDenoiser.of(prior), degradation, y, levels, guidance
    found = sp.simulate(*given, jax.random.key(1), sigma_y=0.2, num_runs=4096, batch_size=512)
    transfer = sampler_transfer(sampler, problem, levels, guidance)
    centred = degradation.to_measurement_modes(y) - problem.response * problem.mean
    mean = jnp.einsum("bij,bj->bi", transfer.data_gain, centred) + transfer.offset + problem.mean
    cov = transfer.state_gain @ transfer.state_gain.mT + transfer.noise_cov
    var = jnp.diagonal(cov, axis1=-2, axis2=-1)
    assert np.all(np.abs(found.mean - mean) < 5 * np.sqrt(var / 4096))
    assert np.all(np.abs(found.var / var - 1) < 5 * np.sqrt(2 / 4096))


def test_image_mse_is_the_error_of_a_restored_image():
    """Of one given image, all noise averaged out: 2048 runs on as many measurements."""
    degradation = sp.downsample((8, 8), 2)
    prior = sp.power_law((8, 8))
    problem = sp.image_problem(prior, degradation, 0.2)
    sampler, levels = sp.SAMPLERS["diffpir"](), sp.vp_linear(4)
    guidance = sampler.heuristic(problem, levels)
    x_0 = np.broadcast_to(sp.draw(prior, 1)[0], (2048, 1, 8, 8))
    y = sp.measure(degradation, x_0, 0.2, jax.random.key(0))
    given = sampler, sp.GaussianDenoiser.of(prior), degradation, y, levels, guidance
    x = np.asarray(sp.restore(*given, jax.random.key(1), sigma_y=0.2))
    assert x.shape == (2048, 1, 8, 8)
    errors = np.mean((x - x_0) ** 2, axis=(1, 2, 3))
    transfer = sampler_transfer(sampler, problem, levels, guidance)
    modes = degradation.to_modes(x_0[0, 0] - prior.mean)
    predicted = sp.metrics.image_mse(problem, transfer, modes)
    assert abs(errors.mean() - predicted) < 5 * errors.std() / np.sqrt(errors.size)


def test_unknown_pixels_of_a_measurement_are_not_looked_at():
    degradation, prior = sp.inpaint((4, 3), MASK), sp.power_law((4, 3))
    y = np.asarray(sp.measure(degradation, sp.draw(prior, 1)[0], 0.1, jax.random.key(0)))
    assert np.all(y[MASK == 0] == 0)
    sampler, levels = sp.SAMPLERS["ddrm"](), sp.vp_linear(3)
    guidance = sampler.heuristic(sp.image_problem(prior, degradation, 0.1), levels)
    restored = [
        sp.restore(
            sampler,
            sp.GaussianDenoiser.of(prior),
            degradation,
            one,
            levels,
            guidance,
            jax.random.key(1),
            sigma_y=0.1,
        )
        for one in (y, np.where(MASK, y, 7.0))
    ]
    np.testing.assert_array_equal(*restored)


@pytest.mark.usefixtures("by_adam")
def test_commands_learn_and_restore_super_resolution(tmp_path):
    """A schedule beats the published one, as predicted for a photograph; with it a small image
    becomes one of full size."""
    options = ["--size", "16", "--steps", "4", "--starts", "2", "--bins", "128"]
    design = ["design", "--degradation", "downsample", "--degradation-options", "factor=2"]
    assert not main([*design, *options, "--sampler", "diffpir", "--out", str(tmp_path / "d")])
    found = json.loads((tmp_path / "d" / "metrics.json").read_text())
    rows = found["average image"]
    assert rows["learned"]["W2^2"] < rows["heuristic"]["W2^2"]
    photo = found[next(name for name in found if name.endswith("png"))]["learned"]
    assert photo["one sample"] == pytest.approx(photo["one sample, predicted"], abs=1)
    small = tmp_path / "small.png"
    Image.fromarray(RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(small)
    schedule = ["--schedule", str(tmp_path / "d" / "schedule.json")]
    assert not main(["restore", str(small), *schedule, "--out", str(tmp_path / "r")])
    with pytest.raises(SystemExit, match="2"):
        main(["restore", str(small), *schedule, "--borders", "extend"])
    with Image.open(tmp_path / "r" / "restored-1.png") as restored:
        assert restored.size == (16, 16)


SMALL = "--degradation downsample --degradation-options factor=2 --size 8 --channels luminance"


@pytest.mark.usefixtures("by_adam")
def test_commands_compare_samplers_on_super_resolution(tmp_path):
    """Learned beats published, and no sampler the exact reference."""
    options = "--steps 3 --starts 1 --samplers diffpir"
    out = tmp_path / "c"
    assert not main(["compare", *SMALL.split(), *options.split(), "--out", str(out)])
    (row, *references) = json.loads((out / "compare.json").read_text())
    losses = {name: metrics["W2^2"] for name, metrics in row["metrics"].items()}
    assert row["name"] == "diffpir" and row["steps"] == 3
    assert losses["learned"] < losses["heuristic"]
    (kernel,) = [one for one in references if one["name"] == "exact kernel"]
    assert kernel["metrics"]["exact"]["W2^2"] < 1e-6 < losses["learned"]


@pytest.mark.usefixtures("by_adam")
def test_commands_trade_error_for_realism_in_super_resolution(tmp_path):
    """Nothing is below the optimum, and a price buys perception."""
    options = "--steps 3 --starts 1 --sampler diffpir --prices 0 10"
    out = tmp_path / "t"
    assert not main(["tradeoff", *SMALL.split(), *options.split(), "--out", str(out)])
    rows = json.loads((out / "tradeoff.json").read_text())
    assert all(row["mse"] >= row["least mse at this perception"] for row in rows.values())
    free, priced = rows["learned, price 0"], rows["learned, price 10"]
    assert free["mse"] < priced["mse"] and free["perception"] > priced["perception"]


@pytest.mark.usefixtures("by_adam")
def test_commands_evaluate_super_resolution(tmp_path):
    """W2^2 is that of the schedule's problem; for another factor that of the other problem."""
    prior, degradation = sp.power_law((8, 8)), sp.downsample((8, 8), 2)
    problem, levels = sp.image_problem(prior, degradation, 0.1), sp.vp_linear(3)
    sampler = sp.SAMPLERS["diffpir"]()
    schedule = sp.Schedule(
        sampler_name="diffpir",
        levels=levels,
        guidance=sampler.heuristic(problem, levels),
        degradation_name="downsample",
        degradation_options=degradation.options,
        shape=(8, 8),
        sigma_y=0.1,
    )
    save_prior(tmp_path / "prior.npz", prior)
    sp.save_schedule(tmp_path / "schedule.json", replace(schedule, prior_hash=prior.hash))
    found = []
    for factor in (2, 4):
        out = tmp_path / str(factor)
        options = ["--degradation-options", f"factor={factor}", "--no-relearn"]
        assert not main(["evaluate", str(tmp_path / "schedule.json"), *options, "--out", str(out)])
        found.append(json.loads((out / "metrics.json").read_text()))
    expected = float(sp.evaluate(sampler, problem, levels, schedule.guidance))
    assert found[0]["this schedule"]["W2^2"] == pytest.approx(expected, rel=1e-9)
    assert found[0]["exact reference"]["W2^2"] < expected
    other = sp.image_problem(prior, sp.downsample((8, 8), 4), 0.1)
    expected = float(sp.evaluate(sampler, other, levels, schedule.guidance))
    assert found[1]["this schedule"]["W2^2"] == pytest.approx(expected, rel=1e-9)
