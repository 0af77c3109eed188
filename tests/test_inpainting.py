"""Inpainting of large images: small tiles, repeated, are exact blocks of all frequencies."""

import json
import pickle
from dataclasses import replace

import dense
import jax
import numpy as np
import pytest
import scipy.linalg
from commandline import by_adam  # noqa: F401
from PIL import Image

import spectralpost as sp
from spectralpost import inpainting
from spectralpost.cli import main
from spectralpost.errors import InputError
from spectralpost.inpainting import inpainting_problem, is_exact, learning_problem
from spectralpost.learning import evaluate
from spectralpost.learning.halving import EXPLORING
from spectralpost.learning.loss import FEW_DENSE
from spectralpost.merging_blocks import representative_blocks
from spectralpost.problem import num_pixels, per_pixel, prior_cov

pytestmark = pytest.mark.usefixtures("quick")

RNG = np.random.default_rng(0)
LEVELS = sp.vp_linear(3)


def mirrored(tile):
    return np.roll(np.flip(tile), 1, axis=range(tile.ndim))


@pytest.mark.parametrize(("shape", "size"), [((12,), 3), ((8, 8), 4), ((6, 9), 3)])
@pytest.mark.parametrize("name", ["dps", "pigdm", "ddrm", "daps"])
def test_a_repeated_tile_is_the_dense_problem_of_its_mask(shape, size, name, monkeypatch):
    """One block of all pixels, and the blocks of a tile: the same W2, the mean included."""
    tile = RNG.random((size,) * len(shape)) < 0.5
    tile = tile & mirrored(tile)
    tile.flat[0] = True
    mask = np.tile(tile, [n // size for n in shape])
    monkeypatch.setattr(inpainting, "_tiles", lambda *_: tile.reshape(1, -1).astype(float))
    prior = sp.power_law(shape, mean=0.3)
    degradation = sp.inpaint(shape, mask.astype(int))
    whole = sp.image_problem(prior, degradation, 0.1)
    blocks = inpainting_problem(prior, degradation, 0.1, tile=size, num_blocks=mask.size)
    assert blocks.spectrum.shape == (mask.size // tile.size, tile.size)
    sampler = sp.SAMPLERS[name]()
    guidance = sampler.heuristic(whole, LEVELS)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12),
        guidance,
        sampler.heuristic(blocks, LEVELS),
    )
    expected = evaluate(sampler, whole, LEVELS, guidance)
    found = evaluate(sampler, blocks, LEVELS, guidance)
    # Published constants may amplify on the way, up to 1e3 here.
    np.testing.assert_allclose(found, expected, rtol=1e3 * mask.size * np.finfo(float).eps)


@pytest.mark.parametrize("mask", [{"keep": 0.1}, {"keep": 0.5}, {"mask": "box"}])
def test_the_model_has_the_pixels_the_variance_and_the_known_share_of_images(mask):
    prior, degradation = sp.power_law((32, 32)), sp.inpaint((32, 32), **mask)
    problem = inpainting_problem(prior, degradation, 0.1)
    assert problem.spectrum.size < 700
    # 10 bins or 16 of 1024 modes, summed in double precision.
    np.testing.assert_allclose(num_pixels(problem), 1024, rtol=1e-12)
    np.testing.assert_allclose(
        per_pixel(problem, problem.spectrum), prior.spectrum.mean(), rtol=1e-12
    )
    known = per_pixel(problem, problem.response)
    assert abs(known - degradation.response.mean()) <= 0.5 / 16  # half a pixel of a tile


def test_tiles_are_their_own_mirror_images_and_of_the_mask():
    mask = RNG.random((20, 24)) < 0.3
    tiles = inpainting._tiles(mask[None], 4, 3)
    assert tiles.shape == (3, 16)
    windows = np.lib.stride_tricks.sliding_window_view(mask, (4, 4)).reshape(-1, 4, 4)
    for tile in tiles.reshape(3, 4, 4):
        np.testing.assert_array_equal(tile, mirrored(tile))
        half = np.arange(16).reshape(4, 4) <= mirrored(np.arange(16).reshape(4, 4))
        assert np.any(np.all(windows[:, half] == tile[half], axis=1))


@pytest.mark.parametrize("every", [2, 4])
def test_rows_that_repeat_are_the_dense_problem(every):
    """Few tiles know as many pixels as the mask: none is taken that knows others."""
    mask = np.zeros((16, 16))
    mask[::every] = 1
    prior, degradation = sp.power_law(mask.shape, mean=0.3), sp.inpaint(mask.shape, mask)
    whole = sp.image_problem(prior, degradation, 0.1)
    blocks = inpainting_problem(prior, degradation, 0.1, num_blocks=mask.size)
    sampler = sp.SAMPLERS["pigdm"]()
    guidance = sampler.heuristic(whole, LEVELS)
    found, wanted = (evaluate(sampler, one, LEVELS, guidance) for one in (blocks, whole))
    np.testing.assert_allclose(found, wanted, rtol=1e3 * mask.size * np.finfo(float).eps)


def test_holes_are_large_where_chance_makes_none():
    def large(**mask):
        known = sp.inpaint((48, 48), **mask).response.reshape(48, 48) > 0
        return inpainting._has_large_holes(known)

    assert not any(large(keep=keep) for keep in (0.05, 0.3, 0.9, 1.0))
    assert large(mask="box") and large(mask="box", size=12) and large(mask="box", size=44)


CROSS = np.ones((32, 32), int)
CROSS[4:28, 10:16] = CROSS[12:18, 4:28] = 0


def test_large_holes_are_a_block_of_the_lowest_frequencies_known_and_not():
    """Of cosines and sines written out: the block's prior and mask are those of the image in the
    space of both; pixels, known pixels and variance are those of the image."""
    prior, degradation = sp.power_law(CROSS.shape, mean=0.3), sp.inpaint(CROSS.shape, CROSS)
    problem = inpainting_problem(prior, degradation, 0.1, tile=4)
    lowest = np.argsort(-prior.spectrum, axis=None, kind="stable")[:8]
    i, j = np.indices(CROSS.shape).reshape(2, -1)
    P = np.empty((8, 32 * 32))
    for row, q in enumerate(lowest):
        phase = 2 * np.pi * ((q // 32) * i + (q % 32) * j) / 32
        P[row] = (np.cos(phase) + np.sin(phase)) / 32
    known, unknown = (scipy.linalg.orth((P * part.ravel()).T) for part in (CROSS, 1 - CROSS))
    C = dense.stationary(prior.spectrum)
    E, h = np.asarray(problem.basis[0]), np.asarray(problem.response[0])
    np.testing.assert_array_equal(h, np.repeat([1.0, 0.0], 8))
    cov = E * np.asarray(problem.spectrum[0]) @ E.T
    # The same up to rotations of what is known and of what is not.
    for part, one, other in (
        (cov[:8, :8], known, known),
        (cov[:8, 8:], known, unknown),
        (cov[8:, 8:], unknown, unknown),
    ):
        values = scipy.linalg.svdvals(one.T @ C @ other)
        np.testing.assert_allclose(scipy.linalg.svdvals(part), values, atol=1e-12 * cov.max())
    for part, one in ((problem.mean[0, :8], known), (problem.mean[0, 8:], unknown)):
        norm = np.linalg.norm(one.T @ prior.mean.ravel())
        assert np.linalg.norm(part) == pytest.approx(norm, rel=1e-10)
    np.testing.assert_array_equal(problem.response[1:], [np.ones(16), np.zeros(16)])
    weights = np.asarray(problem.weight)
    assert weights.sum() * 16 == pytest.approx(CROSS.size)
    assert weights @ np.asarray(problem.response).sum(axis=1) == pytest.approx(CROSS.sum())
    variance = weights @ np.asarray(problem.spectrum).sum(axis=1)
    assert float(variance) == pytest.approx(prior.spectrum.sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("mask", "tile"),
    [
        (np.arange(81).reshape(9, 9) < 40, 9),  # as many modes as pixels are asked for
        (np.abs(np.arange(200) - 70) > 20, None),  # 1-D
        (np.pad(np.zeros((4, 4)), ((30, 30), (30, 30)), constant_values=1), None),  # 16 pixels
    ],
    ids=["all modes", "1-D", "few pixels"],
)
def test_large_holes_of_any_image_are_counted(mask, tile):
    """All pixels and all variance, where one side has fewer pixels than there are modes, too."""
    prior = sp.power_law(mask.shape)
    problem = inpainting_problem(prior, sp.inpaint(mask.shape, mask.astype(int)), 0.1, tile=tile)
    assert len(problem.spectrum) == 3 and 1 < problem.spectrum.shape[1] <= 40
    assert float(num_pixels(problem)) == pytest.approx(mask.size, rel=1e-12)
    variance = np.asarray(problem.weight) @ np.asarray(problem.spectrum).sum(axis=1)
    assert float(variance) == pytest.approx(prior.spectrum.sum(), rel=1e-12)


def test_what_large_holes_blow_up_is_foreseen():
    """Of a weight that is too small, of a good one, of one that is a little too large and of one
    that multiplies scores by 10^4: whole images score as predicted, or better by what known pixels
    say of high frequencies beside them, which the model leaves out (6 and 17 % where nothing blows
    up), to three standard errors."""
    prior, degradation = sp.power_law(CROSS.shape), sp.inpaint(CROSS.shape, CROSS)
    levels, sampler = sp.vp_linear(20), sp.SAMPLERS["dps"]()
    problem = learning_problem(prior, degradation, 0.05)
    x_0 = sp.draw(prior, 64, seed=1)[:, None]
    y = sp.measure(degradation, x_0, 0.05, jax.random.key(1))
    given = sampler, sp.GaussianDenoiser.of(prior), degradation, y, levels
    for zeta in (0.1, 0.5, 0.7, 1.0):
        guidance = sampler.heuristic(problem, levels) | {"zeta": np.full(20, zeta)}
        transfer = sp.sampler_transfer(sampler, problem, levels, guidance)
        predicted = float(sp.predicted_energy_score(problem, transfer))
        found = sp.restore(*given, guidance, jax.random.key(2), sigma_y=0.05, num_samples=2)
        scores = np.asarray(sp.energy_score(found, x_0))
        drawn, error = scores.mean(), scores.std(ddof=1) / np.sqrt(scores.size)
        assert drawn - 3 * error < predicted < 1.2 * drawn + 3 * error
    assert drawn > 1000


def test_colour_and_calibration_are_of_each_axis():
    """The blocks of a colour prior are those of its axes, and their ratios its profile's."""
    images = sp.draw(sp.power_law((16, 16), std=0.2), 24).reshape(8, 3, 16, 16)
    prior, degradation = sp.from_images(images, colour=True), sp.inpaint((16, 16), keep=0.5)
    prior = sp.calibrate(prior, sp.GaussianDenoiser.of(prior), np.asarray(images, np.float32))
    problem = learning_problem(prior, degradation, 0.1)
    first = 0
    for axis in range(3):
        plane = replace(
            prior, spectrum=prior.spectrum[axis], mean=prior.mean[axis], axes=None, calibration=None
        )
        alone = inpainting_problem(plane, degradation, 0.1)
        rows = slice(first, first + len(alone.spectrum))
        first = rows.stop
        for name in ("spectrum", "response", "mean", "basis", "weight"):
            np.testing.assert_array_equal(getattr(problem, name)[rows], getattr(alone, name))
    assert first == len(problem.spectrum)
    assert problem.calibration.ratio.shape[:2] == problem.spectrum.shape
    of_last = sp.mode_frequency(prior, degradation)
    expected = prior.calibration.on(of_last.ravel()).reshape(3, *of_last.shape, -1)[2]
    np.testing.assert_allclose(problem.calibration.ratio[-len(of_last) :], expected, rtol=1e-12)


# -------------------------------------------------------------------------- masks of each plane


def of_colour(shape):
    """A random prior of colour, means included."""
    spectra = np.stack([v * sp.power_law(shape, std=0.5).spectrum for v in (0.05, 0.2, 1.0)])
    means = np.array([0.1, -0.2, 0.4])[:, None, None] * np.ones(shape)
    axes = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    return sp.Prior(spectra, means, (-1.0, 1.0), "formula", axes=axes)


def test_masks_of_planes_are_one_block_of_all_planes():
    """H is a diagonal; the prior of colour as a matrix; runs of a sampler and its closed form."""
    shape = (4, 3)
    masks, prior = (RNG.random((3, *shape)) < 0.4).astype(int), of_colour(shape)
    degradation = sp.inpaint(shape, masks)
    x = RNG.normal(size=(2, 3, *shape))
    np.testing.assert_array_equal(degradation.apply(x), masks * x)
    np.testing.assert_array_equal(degradation.adjoint(x), masks * x)
    problem = sp.image_problem(prior, degradation, 0.2)
    turn = np.kron(prior.axes, np.eye(12))
    C = turn @ scipy.linalg.block_diag(*map(dense.stationary, prior.spectrum)) @ turn.T
    np.testing.assert_allclose(prior_cov(problem)[0], C, atol=1e-13)
    np.testing.assert_allclose(problem.mean[0], turn @ prior.mean.ravel(), atol=1e-13)
    y = sp.measure(degradation, sp.draw(prior, 1)[0], 0.2, jax.random.key(0))
    assert y.shape == (3, *shape) and np.all(np.asarray(y)[masks == 0] == 0)
    sampler = sp.SAMPLERS["diffpir"]()
    guidance = sampler.heuristic(problem, LEVELS)
    given = sampler, sp.GaussianDenoiser.of(prior), degradation, y, LEVELS, guidance
    found = sp.simulate(*given, jax.random.key(1), sigma_y=0.2, num_runs=4096, batch_size=512)
    transfer = sp.sampler_transfer(sampler, problem, LEVELS, guidance)
    centred = degradation.to_measurement_modes(y) - problem.response * problem.mean
    mean = (transfer.data_gain[0] @ centred[0] + transfer.offset[0] + problem.mean[0])[None]
    cov = transfer.state_gain[0] @ transfer.state_gain[0].T + transfer.noise_cov[0]
    var = np.diagonal(cov)[None]
    assert np.all(np.abs(found.mean - mean) < 5 * np.sqrt(var / 4096))
    assert np.all(np.abs(found.var / var - 1) < 5 * np.sqrt(2 / 4096))


@pytest.mark.parametrize("name", ["pigdm", "ddrm"])
def test_a_bayer_pattern_is_masks_of_planes(name):
    """All of it in one block, in blocks of a tile, and as `mosaic`, whose blocks are exact."""
    bayer = np.zeros((3, 2, 2), int)
    bayer[[0, 1, 1, 2], [0, 0, 1, 1], [0, 1, 0, 1]] = 1  # RGGB
    shape, prior = (8, 8), of_colour((8, 8))
    masks = sp.inpaint(shape, np.tile(bayer, (1, 4, 4)))
    whole = sp.image_problem(prior, masks, 0.1)
    blocks = learning_problem(prior, masks, 0.1)
    exact = sp.image_problem(prior, sp.mosaic(shape, "RGGB"), 0.1)
    assert whole.spectrum.shape == (1, 192) and exact.spectrum.shape == (16, 12)
    assert blocks.spectrum.shape[1] == 48 and float(num_pixels(blocks)) == pytest.approx(192)
    sampler = sp.SAMPLERS[name]()
    guidance = sampler.heuristic(exact, LEVELS)
    losses = [float(evaluate(sampler, one, LEVELS, guidance)) for one in (exact, whole, blocks)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-9)


def test_masks_of_planes_drawn_and_modelled():
    """A share of each plane; as many pixels, as much variance and as many known as of images."""
    degradation, prior = sp.inpaint((16, 16), keep=0.25, planes=3), of_colour((16, 16))
    masks = degradation.response.reshape(3, 256)
    assert masks.sum(axis=1).tolist() == [64, 64, 64] and np.any(masks[0] != masks[1])
    np.testing.assert_array_equal(masks[0], sp.inpaint((16, 16), keep=0.25).response[0])
    assert pickle.loads(pickle.dumps(degradation)) == degradation
    assert sp.inpaint((16, 16), masks.reshape(3, 16, 16)).planes == 3
    images = sp.draw(prior, 8).clip(-1, 1).astype(np.float32)
    calibrated = sp.calibrate(prior, sp.GaussianDenoiser.of(prior), images)
    problem = learning_problem(calibrated, degradation, 0.1)
    assert problem.calibration.ratio.shape[:2] == problem.spectrum.shape
    np.testing.assert_allclose(num_pixels(problem), 3 * 256, rtol=1e-12)
    np.testing.assert_allclose(
        per_pixel(problem, problem.spectrum), prior.spectrum.mean(), rtol=1e-12
    )
    assert abs(per_pixel(problem, problem.response) - 0.25) <= 1.5 / 48  # a pixel of a tile
    f = sp.mode_frequency(calibrated, degradation)
    assert np.all(f[:, :32] == 0) and np.sum(f[:, 32:] == 0) == 4  # frequency 0, of each tile
    last = f[:, 32:]
    expected = calibrated.calibration.on(last.ravel()).reshape(3, *last.shape, -1)[2]
    np.testing.assert_array_equal(problem.calibration.ratio[:, 32:], expected)


def test_images_of_few_pixels_are_taken_for_what_they_are():
    small, large = sp.inpaint((8, 8)), sp.inpaint((9, 8))
    assert is_exact(small) and not is_exact(large) and is_exact(sp.gaussian_blur((64, 64)))
    prior = sp.power_law((8, 8))
    assert learning_problem(prior, small, 0.1).spectrum.shape == (1, 64)


def test_thin_images_have_smaller_tiles():
    """Of 3x3 pixels, and none where large holes are modelled by the lowest frequencies."""
    for shape, mask in (((3, 40), "random"), ((2, 40), "random"), ((3, 100), "box")):
        problem = sp.learning_problem(sp.power_law(shape), sp.inpaint(shape, mask), 0.1)
        assert np.all(np.isfinite(problem.spectrum))
        np.testing.assert_allclose(problem.weight.sum() * problem.spectrum.shape[1], np.prod(shape))


def test_wrong_input_is_one_line(tmp_path, capsys):
    prior, mask = sp.power_law((16, 16)), sp.inpaint((16, 16))
    with pytest.raises(InputError, match="'identity': only inpaint has a mask"):
        inpainting_problem(prior, sp.identity((16, 16)), 0.1)
    with pytest.raises(InputError, match=r"tile = 17: larger than the image, \(16, 16\)"):
        inpainting_problem(prior, mask, 0.1, tile=17)
    with pytest.raises(InputError, match=r"prior of size \(8, 8\), degradation of size \(16, 16\)"):
        inpainting_problem(sp.power_law((8, 8)), mask, 0.1)
    with pytest.raises(InputError, match="channels = 0: must be a whole number >= 1"):
        inpainting_problem(prior, mask, 0.1, channels=0)
    with pytest.raises(InputError, match="tile = 1: must be a whole number >= 2"):
        inpainting_problem(prior, mask, 0.1, tile=1)
    with pytest.raises(
        InputError, match=r"\(3, 4\): \(4, 4\) is needed, or one such mask for each"
    ):
        sp.inpaint((4, 4), np.ones((3, 4)))
    with pytest.raises(InputError, match="planes = 3: is of mask = 'random' alone"):
        sp.inpaint((4, 4), "box", planes=3)
    with pytest.raises(InputError, match="channels = 1: inpaint is of 3 planes"):
        inpainting_problem(prior, sp.inpaint((16, 16), planes=3), 0.1, channels=1)
    with pytest.raises(InputError, match="one block of 3x32x32 pixels, at most 1024"):
        sp.image_problem(sp.power_law((32, 32)), sp.inpaint((32, 32), planes=3), 0.1)
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "mask.png")
    for given, says in (
        (tmp_path / "mask.png", "mask of shape (8, 8): (32, 32) is needed"),
        ("square", "mask = 'square': allowed are random, box, or a file"),
    ):
        options = ["--size", "32", "--degradation", "inpaint"]
        with pytest.raises(SystemExit, match="2"):
            main(["design", *options, "--degradation-options", f"mask={given}"])
        assert says in capsys.readouterr().err


@pytest.mark.usefixtures("by_adam")
def test_a_few_blocks_stand_for_all():
    """Those that there are, with the weight and the variance of all, and W2^2 within 5 %."""
    problem = inpainting_problem(sp.power_law((32, 32)), sp.inpaint((32, 32), keep=0.3), 0.1)
    assert representative_blocks(problem, 100) is problem
    few = representative_blocks(problem, 8)
    assert len(few.spectrum) == 8 < len(problem.spectrum)
    of = np.all(np.asarray(few.response)[:, None] == np.asarray(problem.response), axis=2)
    times = np.asarray(few.spectrum)[:, None] / np.asarray(problem.spectrum)
    assert np.all(np.any(of & (np.ptp(times, axis=2) < 1e-12 * times.max(axis=2)), axis=1))
    for total in (num_pixels, lambda one: num_pixels(one) * per_pixel(one, one.spectrum)):
        assert float(total(few)) == pytest.approx(float(total(problem)), rel=1e-12)
    for name in ("dps", "ddrm"):
        sampler = sp.SAMPLERS[name]()
        guidance = sampler.heuristic(problem, LEVELS)
        found, whole = (float(evaluate(sampler, one, LEVELS, guidance)) for one in (few, problem))
        assert found == pytest.approx(whole, rel=0.05)


def test_large_blocks_are_explored_on_few_of_them():
    """Blocks of 9, from several starts; what is found on 8 of them is refined on all."""
    prior, mask = sp.power_law((252,)), sp.inpaint((252,), keep=0.3)
    problem = inpainting_problem(prior, mask, 0.1, tile=9)
    assert len(problem.spectrum) > FEW_DENSE
    search = sp.Search(starts=4, max_iterations=30)
    learned = sp.learn(sp.SAMPLERS["dps"](), problem, LEVELS, search=search)
    assert 2 <= len(learned.explored) <= 30 / EXPLORING
    assert learned.loss < 0.9 * learned.baselines["tuned_constant"]
    again = sp.learn(sp.SAMPLERS["dps"](), problem, LEVELS, search=search, resume=learned.kept)
    assert not len(again.explored) and again.loss <= learned.loss * (1 + 1e-9)


def test_commands_learn_from_a_mask_file_and_restore_with_it(tmp_path, capsys):
    """Better than the published schedule on the photograph too; no number is made up for it."""
    mask = np.where(RNG.random((32, 32)) < 0.5, 255, 0).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    given = ["--degradation", "inpaint", "--degradation-options", f"mask={tmp_path / 'mask.png'}"]
    options = ["--size", "32", "--channels", "luminance", "--steps", "4", "--sampler", "pigdm"]
    options += ["--starts", "2"]
    assert not main(["design", *given, *options, "--out", str(tmp_path / "d")])
    found = json.loads((tmp_path / "d" / "metrics.json").read_text())
    rows = found["average image"]
    assert rows["learned"]["W2^2"] < rows["heuristic"]["W2^2"]
    photo = found[next(name for name in found if name.endswith("png"))]
    assert set(photo["learned"]) == {"one sample", "mean of 8"}
    assert photo["learned"]["one sample"] > photo["heuristic"]["one sample"]
    assert "a model of the mask" in " ".join(capsys.readouterr().out.split())
    schedule = ["--schedule", str(tmp_path / "d" / "schedule.json")]
    image = tmp_path / "image.png"
    Image.fromarray(RNG.integers(0, 255, (32, 32)).astype(np.uint8)).save(image)
    assert not main(["restore", str(image), *schedule, "--out", str(tmp_path / "r")])
    other = [*schedule[1:], "--sigma-y", "0.1", "--starts", "2"]
    assert not main(["evaluate", *other, "--out", str(tmp_path / "e")])
    assert (tmp_path / "r" / "restored-1.png").is_file()


@pytest.mark.usefixtures("by_adam")
def test_compare_takes_a_mask(tmp_path, capsys):
    """DPS has a literal form, which is simulated unless the problem is a model of the mask."""
    given = ["--degradation", "inpaint", "--size", "16", "--channels", "luminance"]
    given += ["--steps", "2", "--samplers", "dps"]
    assert not main(["compare", *given, "--starts", "1", "--out", str(tmp_path / "c")])
    (row, *_) = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert row["name"] == "dps" and row["closure"] is None
    assert "a model of the mask" in " ".join(capsys.readouterr().out.split())
