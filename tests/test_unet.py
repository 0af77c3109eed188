"""The U-Net denoiser, its files, its training and the command that trains it."""

import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize

from spectralpost.cli import main
from spectralpost.commands.train import images_of
from spectralpost.degradations import gaussian_blur
from spectralpost.denoisers import training
from spectralpost.denoisers.checkpoints import SAID, Checkpoints
from spectralpost.denoisers.gaussian import GaussianDenoiser
from spectralpost.denoisers.training import LEVELS, Recipe, train
from spectralpost.denoisers.unet import (
    DATA_STD,
    UNetDenoiser,
    convolve,
    initial_denoiser,
    load_unet,
    save_unet,
)
from spectralpost.errors import InputError
from spectralpost.images import built_in_photographs, tiles
from spectralpost.noise import NoiseLevel, vp_linear
from spectralpost.options import Train
from spectralpost.prior import from_images
from spectralpost.restoration import restore
from spectralpost.samplers import SAMPLERS

EPS = float(np.finfo(np.float32).eps)

pytestmark = pytest.mark.usefixtures("quick")


def some_unet(planes=3, seed=0) -> UNetDenoiser:
    """Small, with weights that are not those that training starts from, where much is zero."""
    unet = initial_denoiser(planes, width=4, blocks=1, seed=seed)
    rng = np.random.default_rng(seed)
    noisy = lambda leaf: leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), np.float32)  # noqa: E731
    return unet.replace(params=jax.tree.map(noisy, unet.params))


UNET = some_unet()
LEVEL = NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6))


@pytest.fixture
def images(getkey):
    return jax.random.uniform(getkey(), (5, 3, 12, 8), np.float32, -1, 1)


def test_before_training_pixels_are_independent(images):
    alpha, sigma = LEVEL
    gain = alpha * DATA_STD**2 / (alpha**2 * DATA_STD**2 + sigma**2)
    found = initial_denoiser(3, 4, 1, seed=0)(images, LEVEL)
    np.testing.assert_allclose(found, float(gain) * images, rtol=8 * EPS)


def test_any_leading_axes_and_dtype(images):
    one_by_one = jnp.stack([UNET(image, LEVEL) for image in images])
    np.testing.assert_allclose(UNET(images, LEVEL), one_by_one, atol=64 * EPS)
    nested = UNET(images[None, :, :, :, :], LEVEL)
    assert nested.shape == (1, *images.shape) and nested.dtype == np.float32
    double = UNET(images.astype(np.float64), LEVEL)
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, UNET(images, LEVEL), atol=64 * EPS)
    grey = some_unet(planes=1)(images[:, 0], LEVEL)
    assert grey.shape == (5, 12, 8)


def test_another_pixel_range(images):
    """The same network sees the same image."""
    there = UNET.in_range((10.0, 14.0))  # 12 + 2 x
    level = NoiseLevel(LEVEL.alpha, 2 * LEVEL.sigma)
    found = there(2 * images + 12 * LEVEL.alpha.astype(np.float32), level)
    np.testing.assert_allclose(found, 2 * UNET(images, LEVEL) + 12, rtol=64 * EPS)


@pytest.mark.parametrize("level", [(0.0, 1.0), (1e-4, 1.0), (1.0, 1e-3), (1.0, 80.0), (1.0, 0.0)])
def test_every_level_has_an_answer(level, images):
    """Pure noise and no noise included; without noise the image is its own estimate."""
    alpha, sigma = map(jnp.asarray, level)
    found = UNET(images, NoiseLevel(alpha, sigma))
    assert np.all(np.isfinite(found))
    if sigma == 0:
        np.testing.assert_allclose(found, images, atol=4 * EPS)


def test_derivative_by_the_image(images):
    """Samplers differentiate it: against differences, along a random direction."""
    at = lambda x: jnp.sum(UNET(x, LEVEL) ** 2)  # noqa: E731
    direction = jnp.cos(jnp.arange(images.size, dtype=np.float32)).reshape(images.shape)
    slope = jnp.vdot(jax.grad(at)(images), direction)
    step = 2.0**-5
    difference = (at(images + step * direction) - at(images - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=2e-3)  # of rounding / step, and step^2


@pytest.mark.parametrize("shape", [(3, 10, 8), (3, 8, 9), (4, 8, 8), (8, 8), (8,)])
def test_images_it_does_not_take(shape):
    with pytest.raises(InputError, match=r"x_t of shape .*\[\.\.\., 3, H, W\].*divisible by 4"):
        UNET(jnp.zeros(shape), LEVEL)


def test_files(tmp_path, images):
    """Half precision in the file; bytes that are no network are refused in one line."""
    path = tmp_path / "a.msgpack"
    save_unet(path, UNET.in_range((0.0, 1.0)))
    loaded = load_unet(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(UNET.in_range((0.0, 1.0)))
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(UNET), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs, np.float16).astype(np.float32))
    with pytest.raises(InputError, match="exists"):
        save_unet(path, UNET)
    content = msgpack_restore(path.read_bytes())
    broken = {
        "cut": path.read_bytes()[:-100],
        "other": b"PNG",
        "newer": msgpack_serialize(content | {"format": 2}),
        "wider": msgpack_serialize(content | {"width": 8}),
        "fewer": msgpack_serialize(content | {"weights": {}}),
        "endless": msgpack_serialize(content | {"blocks": 10**9}),
        "range": msgpack_serialize(content | {"pixel_range": [1.0, 0.0]}),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"network '.*{name}': cannot be read") as caught:
            load_unet(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        load_unet(tmp_path / "missing")


def test_samplers_restore_with_it(images, getkey):
    """A colour image, by a sampler that differentiates its denoiser."""
    y, levels = images[0], vp_linear(3)
    blur, sampler = gaussian_blur(y.shape[1:], 1.0), SAMPLERS["dps"]()
    weights = {"zeta": jnp.full(3, 0.1), "eta": jnp.zeros(3)}
    found = restore(sampler, UNET, blur, y, levels, weights, getkey(), sigma_y=0.1)
    assert found.shape == y.shape and found.dtype == y.dtype and np.all(np.isfinite(found))
    with pytest.raises(InputError, match=r"3, H, W"):
        restore(sampler, UNET, blur, y[0], levels, weights, getkey(), sigma_y=0.1)


# ---------------------------------------------------------------------------------------- training

TINY = Recipe(steps=6, batch=4, patch=16, width=4, blocks=1, learning_rate=0.01)


def smooth_images(num=40, side=20, planes=3) -> np.ndarray:
    """Ramps of random colours: easy to denoise."""
    rng = np.random.default_rng(0)
    ramps = np.linspace(-1, 1, side)[:, None] * rng.normal(size=(num, 1, 1, 1))
    colours = rng.normal(size=(num, 1, 1, planes))
    values = 128 + 60 * colours + 40 * ramps[..., None, :, :].reshape(num, side, 1, 1)
    return np.clip(np.broadcast_to(values, (num, side, side, planes)), 0, 255).astype(np.uint8)


SETS = [smooth_images(), smooth_images(24, 32)]


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(training, "EVERY", 2)
    monkeypatch.setattr(training, "TELL", 3)


def test_training_goes_on_as_if_not_interrupted(tmp_path, often):
    def interrupt(progress):
        raise KeyboardInterrupt

    whole = train(SETS, TINY, tmp_path / "whole")
    assert [step for step, _ in whole.losses] == [2, 4, 6]
    with pytest.raises(KeyboardInterrupt):
        train(SETS, TINY, tmp_path / "parts", interrupt)
    told = []
    parts = train(SETS, TINY, tmp_path / "parts", told.append)
    assert [progress.step for progress in told] == [3, 6]
    assert parts.losses == whole.losses and parts.psnr == whole.psnr
    for ours, theirs in zip(*map(jax.tree.leaves, (parts, whole)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # nothing is left to do
    assert train(SETS, TINY, tmp_path / "parts").losses == whole.losses


def test_other_checkpoints_are_refused(tmp_path, often):
    train(SETS, TINY, tmp_path / "a")
    for recipe, sets, name in (
        (TINY._replace(width=8), SETS, "width = 4, not 8"),
        (TINY, SETS[:1], "images"),
    ):
        with pytest.raises(InputError, match=f"checkpoints .*{name}.*choose another folder"):
            train(sets, recipe, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        train(SETS, TINY, tmp_path / "b")
    (tmp_path / "a" / "recipe.json").write_text("{")
    with pytest.raises(InputError, match="cannot be used"):
        train(SETS, TINY, tmp_path / "a")
    for text in ("[1]", "3", '"recipe"', "null"):
        (tmp_path / "a" / "recipe.json").write_text(text)
        with pytest.raises(InputError, match=r"cannot be used .*recipe\.json holds no recipe"):
            train(SETS, TINY, tmp_path / "a")


# Of Orbax, whose tasks find their loop closed once one of them has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_checkpoints_are_one_line(tmp_path):
    """Each file of the last state emptied, replaced by other JSON, or gone: read as it was, as
    some are not needed, or refused."""
    about, state = {"format": 1}, {"a": np.ones((4, 3)), "b": {"c": np.arange(5.0)}}
    kept = Checkpoints(tmp_path / "whole", about)
    kept.save(3, state, [(3, 0.5)])
    kept.close()
    last = Path("states") / "3"
    files = [
        path.relative_to(tmp_path / "whole")
        for path in sorted((tmp_path / "whole" / last).rglob("*"))
    ]
    refused = set()
    for i, file in enumerate(files):
        for j, damage in enumerate((None, b"", b"[1]", b"{}")):
            folder = tmp_path / f"{i}-{j}"
            shutil.copytree(tmp_path / "whole", folder)
            if damage is None and (folder / file).is_dir():
                shutil.rmtree(folder / file)
            elif damage is None:
                (folder / file).unlink()
            elif (folder / file).is_dir():
                continue
            else:
                (folder / file).write_bytes(damage)
            try:
                damaged = Checkpoints(folder, about)
                found, losses = damaged.latest(state)
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 200 + SAID + len(str(folder))
                assert "cannot be used, perhaps damaged" in str(error)
                refused.add(file.name)
            else:
                chex.assert_trees_all_equal(found, state)
                assert losses == [(3, 0.5)]
    assert {"_METADATA", "metadata", "losses", "state"} <= refused


def test_training_learns(tmp_path):
    """A network that was trained for some seconds beats independent pixels by far."""
    recipe = TINY._replace(steps=150, batch=16)
    trained = train(SETS, recipe, tmp_path / "a")
    alone = initial_denoiser(3, 4, 1, seed=0)
    kept_out = [images[:2] for images in SETS]
    before = training.validate(alone, SETS, kept_out, 16)["network"]
    after = training.validate(trained.denoiser, SETS, kept_out, 16)["network"]
    i = LEVELS.index(0.5)
    assert after[i] > before[i] + 1


@pytest.mark.parametrize(
    ("sets", "recipe", "match"),
    [
        ([], TINY, "one set"),
        ([SETS[0].astype(float)], TINY, "float64"),
        ([SETS[0][..., :2]], TINY, "planes"),
        ([SETS[0], smooth_images(planes=1)], TINY, "one and with three"),
        ([SETS[0][:5]], TINY, "20 images"),
        ([SETS[0][:, :8]], TINY, "16 pixels"),
        ([SETS[0][:0]], TINY, "20 images"),
        (SETS, TINY._replace(patch=12), "patch = 12: must be >= 16"),
        (SETS, TINY._replace(patch=18), "patch = 18.*divisible by 4"),
        (SETS, TINY._replace(steps=0), "steps = 0"),
        (SETS, TINY._replace(learning_rate=0.0), "learning_rate = 0.0"),
    ],
)
def test_bad_training_data_and_recipes(sets, recipe, match, tmp_path):
    with pytest.raises(InputError, match=match):
        train(sets, recipe, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_training_that_diverges_is_one_line(tmp_path, often):
    recipe = TINY._replace(learning_rate=0.99, steps=40, batch=1, width=8, blocks=4)
    with pytest.raises(InputError, match=r"learning_rate = 0\.99: the network diverged"):
        train(SETS, recipe, tmp_path / "a")


def test_one_large_photograph_among_small_ones(tmp_path):
    """Too few for a set of its own: it is cut like the others."""
    from PIL import Image

    for i, image in enumerate((*smooth_images(20, 20), *smooth_images(1, 40))):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (images,) = images_of(str(tmp_path), "rgb", 16, [])
    assert images.shape == (24, 16, 16, 3)


def test_defaults_of_the_command_are_those_of_the_recipe():
    assert Recipe(**{name: getattr(Train(), name) for name in Recipe._fields}) == Recipe()


def test_command(tmp_path, capsys, often):
    """Trains on a folder and a file; the network it writes can be read."""
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(smooth_images(20, 40)):
        Image.fromarray(image).save(folder / f"{i}.png")
    np.savez(tmp_path / "b.npz", train=SETS[0], test=SETS[1])
    command = (
        f"train --data {folder} {tmp_path}/b.npz --steps 2 --batch 4 --patch 16 --width 4 "
        f"--blocks 1 --checkpoints {tmp_path}/checkpoints"
    )
    main([*command.split(), "--out", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "gain" in out and "0.05" in out
    assert load_unet(tmp_path / "out" / "unet.msgpack").width == 4
    assert (tmp_path / "out" / "training.png").stat().st_size > 10_000
    for change, match in {
        f"--data {tmp_path}/b.npz:tst": "holds train, test",
        f"--data {tmp_path}/none.npz": "cannot be read",
        f"--data {tmp_path}/nothing": "no such folder",
        "--width 8": "width = 4, not 8",
        "--learning-rate 2": "learning_rate = 2",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), *change.split(), "--out", str(tmp_path / "other")])
        error = capsys.readouterr().err
        assert ended.value.code == 2 and match in error and error.count("\n") == 1
        assert not (tmp_path / "other").exists()


def test_the_shipped_network_on_photographs_that_it_has_not_seen():
    """It beats the Gaussian denoiser of these very photographs, whose spectrum that one knows."""
    photographs = built_in_photographs("rgb", (-1.0, 1.0)).values()
    planes = [one for one in photographs if one.shape[0] == 3]
    images = np.concatenate([tiles(one, 128)[:6] for one in planes]).astype(np.float32)
    gaussian = GaussianDenoiser.of(from_images(images, colour=True))
    network, images = load_unet(), jnp.asarray(images[::5])
    for i, sigma in enumerate((0.05, 0.1, 0.2, 0.5, 1.0)):
        level = NoiseLevel(jnp.float32(1.0), jnp.float32(sigma))
        x_t = images + level.sigma * jax.random.normal(jax.random.key(i), images.shape, np.float32)
        errors = [float(jnp.mean((one(x_t, level) - images) ** 2)) for one in (network, gaussian)]
        gain = 10 * np.log10(errors[1] / errors[0])
        print(f"sigma {sigma:g}: {gain:+.2f} dB")
        assert gain > (1 if sigma == 0.1 else 0)


@pytest.mark.parametrize("side", [1, 3])
def test_derivatives_of_a_convolution_are_those_of_jax(side, getkey):
    def plain_convolution(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)

    x = jax.random.normal(getkey(), (2, 6, 5, 3))
    kernel = jax.random.normal(getkey(), (side, side, 3, 4))
    cotangent = jax.random.normal(getkey(), (2, 6, 5, 4))
    y, pull = jax.vjp(convolve, x, kernel)
    plain, pull_plain = jax.vjp(plain_convolution, x, kernel)
    np.testing.assert_array_equal(y, plain)
    for ours, theirs in zip(pull(cotangent), pull_plain(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
