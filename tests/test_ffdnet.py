"""FFDNet against a literal version in PyTorch, its files, and what is refused of files.

Files are written by PyTorch where it is there; what is refused needs none.
"""

import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectralpost.commands.inputs import denoiser_of
from spectralpost.degradations import gaussian_blur
from spectralpost.denoisers.ffdnet import LIMIT, load_ffdnet
from spectralpost.denoisers.gaussian import GaussianAbove, GaussianDenoiser
from spectralpost.errors import InputError
from spectralpost.noise import NoiseLevel, vp_linear
from spectralpost.prior import from_images, power_law
from spectralpost.restoration import restore
from spectralpost.samplers import SAMPLERS
from spectralpost.state_dict import read_state_dict

EPS = float(np.finfo(np.float32).eps)
PRIOR = power_law((9, 6))
UNIT = power_law((9, 6), std=0.25, mean=0.5, pixel_range=(0.0, 1.0))  # the same in [0, 1]
WIDTH, LAYERS = 5, 4

pytestmark = pytest.mark.usefixtures("quick")


def weights_of(planes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A state_dict with the names of an FFDNet."""
    rng = np.random.default_rng(seed)
    widths = [4 * planes + 1, *[WIDTH] * (LAYERS - 1), 4 * planes]
    weights = {}
    for i in range(LAYERS):
        scale = np.sqrt(2 / 9 / widths[i])
        weights[f"model.{2 * i}.weight"] = scale * rng.normal(size=(widths[i + 1], widths[i], 3, 3))
        weights[f"model.{2 * i}.bias"] = 0.1 * rng.normal(size=widths[i + 1])
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


def saved(path, weights, older=False):
    """The file that PyTorch writes."""
    torch = pytest.importorskip("torch")
    tensors = OrderedDict((name, torch.tensor(weight)) for name, weight in weights.items())
    tensors._metadata = OrderedDict(model={"version": 1})  # as Module.state_dict() has it
    torch.save(tensors, path, _use_new_zipfile_serialization=not older)
    return path


def literal(weights, x, sigma):
    """The network in PyTorch: a tensor [N, planes, H, W] in [0, 1], one sigma."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    height, width = x.shape[-2:]
    x = functional.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    x = functional.pixel_unshuffle(x, 2)
    x = torch.cat([x, torch.full_like(x[:, :1], sigma)], dim=1)
    for i in range(LAYERS):
        x = functional.relu(x) if i else x
        kernel, bias = (
            torch.tensor(weights[f"model.{2 * i}.{name}"]) for name in ("weight", "bias")
        )
        x = functional.conv2d(x, kernel, bias, padding=1)
    return functional.pixel_shuffle(x, 2)[..., :height, :width]


def level_at(ratio: float) -> NoiseLevel:
    alpha = 1 / np.sqrt(1 + ratio**2)
    return NoiseLevel(jnp.asarray(alpha), jnp.asarray(ratio * alpha))


@pytest.mark.parametrize("older", [False, True], ids=["archive", "older"])
@pytest.mark.parametrize("planes", [1, 3])
def test_it_is_the_literal_network(planes, older, tmp_path, getkey):
    """Odd sizes, any leading axes, any dtype; and so is its derivative."""
    torch = pytest.importorskip("torch")
    weights = weights_of(planes)
    ours = load_ffdnet(saved(tmp_path / "a.pth", weights, older), PRIOR)
    assert ours.denoiser.planes == planes and len(ours.denoiser.layers) == LAYERS
    x_t = jax.random.normal(getkey(), (2, 2, planes, 9, 6))
    alpha, sigma = t = level_at(0.4)
    given = torch.tensor(np.asarray(x_t), requires_grad=True)
    unit = ((given / float(alpha) + 1) / 2).float().reshape(-1, planes, 9, 6)
    expected = 2 * literal(weights, unit, float(sigma / alpha) / 2).reshape(x_t.shape) - 1
    found = ours(x_t, t)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected.detach(), atol=64 * EPS)
    cotangent = np.cos(np.arange(x_t.size)).reshape(x_t.shape)
    expected.backward(torch.tensor(cotangent, dtype=torch.float32))
    slope = jax.grad(lambda x: jnp.vdot(ours(x, t), cotangent))(x_t)
    np.testing.assert_allclose(slope, given.grad, atol=64 * EPS)
    assert ours(x_t.astype(np.float32), t).dtype == np.float32
    if planes == 1:
        np.testing.assert_allclose(ours(x_t[0, :, 0], t), found[0, :, 0], atol=64 * EPS)


def test_another_pixel_range(tmp_path, getkey):
    """The same network sees the same image, and gives way at the same level."""
    path = saved(tmp_path / "a.pth", weights_of(3))
    ours, unit = load_ffdnet(path, PRIOR), load_ffdnet(path, UNIT)
    x_t = jax.random.normal(getkey(), (3, 9, 6))
    for ratio in (0.4, 0.99 * LIMIT, 1.01 * LIMIT):
        alpha, sigma = t = level_at(ratio)
        found = unit((x_t + alpha) / 2, NoiseLevel(alpha, sigma / 2))
        np.testing.assert_allclose(2 * found - 1, ours(x_t, t), atol=64 * EPS)


def test_the_gaussian_denoiser_takes_over(tmp_path, getkey):
    """Above the limit, pure noise included; for each image of a batch; with finite derivatives."""
    path = saved(tmp_path / "a.pth", weights_of(3))
    ours, x_t = load_ffdnet(path, PRIOR), jax.random.normal(getkey(), (3, 3, 9, 6))
    ratios = (0.5 * LIMIT, 1.01 * LIMIT, 100.0)
    levels = [level_at(ratio) for ratio in ratios] + [NoiseLevel(jnp.zeros(()), jnp.ones(()))]
    x_t = jnp.concatenate([x_t, x_t[:1]])
    gaussian, network = GaussianDenoiser.of(PRIOR), ours.denoiser
    expected = [
        one(x, t)
        for one, x, t in zip((network, gaussian, gaussian, gaussian), x_t, levels, strict=True)
    ]
    alone = [ours(x, t) for x, t in zip(x_t, levels, strict=True)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *levels)
    together = jax.vmap(lambda x, t: ours(x, t))(x_t, stacked)
    for i in range(len(levels)):
        np.testing.assert_allclose(alone[i], expected[i], atol=64 * EPS)
        np.testing.assert_allclose(together[i], expected[i], atol=64 * EPS)
    slope = jax.grad(lambda x: jnp.sum(jax.vmap(lambda x, t: ours(x, t))(x, stacked) ** 2))(x_t)
    assert np.all(np.isfinite(slope))
    # Of pure noise the estimate is the mean, whatever it is.
    assert np.any(slope != 0, axis=(1, 2, 3)).tolist() == [True, True, True, False]


def test_gaussian_above_any_function(getkey):
    """A function of JAX, below the decorrelated colours of a colour prior."""
    images = jax.random.uniform(getkey(), (12, 3, 8, 8), minval=-1, maxval=1)
    prior = from_images(np.asarray(images), colour=True)
    ours = GaussianAbove.of(lambda x_t, t: x_t / t.alpha, prior, 0.5)
    blur, levels = gaussian_blur((8, 8), 1.0), vp_linear(3)
    weights = {"zeta": jnp.full(3, 0.1), "eta": jnp.zeros(3)}
    restored = restore(
        SAMPLERS["dps"](), ours, blur, images[0], levels, weights, getkey(), sigma_y=0.1
    )
    assert restored.shape == (3, 8, 8) and np.all(np.isfinite(restored))
    t = level_at(0.6)
    np.testing.assert_allclose(ours(images, t), GaussianDenoiser.of(prior)(images, t), atol=1e-12)
    np.testing.assert_allclose(ours(images, level_at(0.4)), images * np.sqrt(1.16), rtol=1e-12)
    for bad, message in ((lambda x_t, t: None, "NoneType"), (lambda x_t, t: x_t[1:], "the shape")):
        with pytest.raises(InputError, match=f"denoiser: returns {message}"):
            GaussianAbove.of(bad, prior, 0.5)(images, level_at(0.4))
    with pytest.raises(InputError, match="limit = 0"):
        GaussianAbove.of(lambda x_t, t: x_t, prior, 0.0)


def test_a_sampler_restores_with_it(tmp_path, getkey):
    path = saved(tmp_path / "a.pth", weights_of(3))
    ours = denoiser_of(f"ffdnet:{path}", PRIOR, (3, 9, 6))
    y, blur = jax.random.normal(getkey(), (3, 9, 6), np.float32), gaussian_blur((9, 6), 1.0)
    weights = {"zeta": jnp.full(3, 0.1), "eta": jnp.zeros(3)}
    sampler, key = SAMPLERS["dps"](), getkey()
    run = lambda denoiser, **options: restore(  # noqa: E731
        sampler, denoiser, blur, y, vp_linear(3), weights, key, sigma_y=0.1, **options
    )
    found = run(ours)
    assert np.all(np.isfinite(found)) and run(ours, num_samples=2).shape == (2, 3, 9, 6)
    assert np.max(np.abs(found - run(GaussianDenoiser.of(PRIOR)))) > 0.01
    with pytest.raises(InputError, match=r"FFDNet takes \[\.\.\., 3, H, W\]"):
        denoiser_of(f"ffdnet:{path}", PRIOR, (1, 9, 6))


@pytest.mark.parametrize("block", [0, 1, 2], ids=["pytorch", "noise", "ffdnet"])
def test_examples_of_the_documentation(block, tmp_path):
    """As a reader would run them, FFDNet's on small images and with other weights."""
    text = (Path(__file__).parent.parent / "docs" / "denoisers.md").read_text("utf-8")
    marked = r"^<!-- not run: tests/test_ffdnet.py does -->\n```python\n(.*?)^```"
    program = re.findall(marked, text, re.MULTILINE | re.DOTALL)[block]
    saved(tmp_path / "ffdnet_color.pth", weights_of(3))
    done = subprocess.run(
        [sys.executable, "-c", program.replace("128", "16")],
        cwd=tmp_path,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "nan" not in done.stdout


# ------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("older", [False, True], ids=["archive", "older"])
def test_tensors_of_all_kinds(older, tmp_path):
    """Half, single and double precision, parts of one storage, transposed."""
    torch = pytest.importorskip("torch")
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "half": whole.half(),
        "double": whole.double(),
        "row": whole[2],
        "turned": whole[1:].T,
        "number": torch.tensor(3.0),
    }
    torch.save(tensors, tmp_path / "a", _use_new_zipfile_serialization=not older)
    found = read_state_dict(tmp_path / "a")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype


def refused(path, *matches):
    with pytest.raises(InputError, match=r"weights '.*': ") as caught:
        load_ffdnet(path, PRIOR)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert all(match in message for match in matches), message


@pytest.mark.parametrize("older", [False, True], ids=["archive", "older"])
def test_files_cut_or_changed_anywhere(older, tmp_path):
    """One line, or a network; never another exception."""
    whole = saved(tmp_path / "a.pth", weights_of(1), older).read_bytes()
    rng = np.random.default_rng(0)
    for length in [0, 3, 4, 100, *rng.integers(len(whole), size=40), len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:length])
        refused(tmp_path / "cut", "cannot be read")
    survived = 0
    for _ in range(300):
        changed = bytearray(whole)
        changed[rng.integers(min(len(whole), 3000))] = rng.integers(256)
        (tmp_path / "changed").write_bytes(changed)
        try:
            read_state_dict(tmp_path / "changed")
            survived += 1
        except InputError as error:
            assert "\n" not in str(error)
    print(f"{survived} of 300 changed files were read all the same")


def test_other_networks(tmp_path):
    weights = weights_of(1)
    broken = {
        "names": {name.replace("model", "net"): weight for name, weight in weights.items()},
        "fewer": {name: weights[name] for name in list(weights)[:-1]},
        "sizes": weights | {"model.2.weight": weights["model.2.weight"][:, :, :, :2]},
        "biases": weights | {"model.2.bias": weights["model.2.bias"][:2]},
        "planes": {name: weight[:4] for name, weight in weights.items()},
        "NaN": weights | {"model.2.bias": np.full(WIDTH, np.nan, np.float32)},
    }
    for name, content in broken.items():
        expected = "NaN" if name == "NaN" else "not those of an FFDNet"
        refused(saved(tmp_path / name, content), expected)


class Runs:
    """What a file of an attacker holds."""

    def __reduce__(self):
        return print, ("this was run",)


def archive_of(path, pickled: bytes, compression=zipfile.ZIP_STORED, **members: bytes):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in members.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


def pickled_tensor(
    size: int, shape: tuple[float, ...], strides: tuple[int, ...], names: str = "a"
) -> bytes:
    """{"a": a tensor of the storage "0"}, as instructions of a pickle; the same of more names."""
    of = lambda value: pickle.dumps(value, 2)[2:-1]  # noqa: E731
    storage = b"(" + of("storage") + b"ctorch\nFloatStorage\n" + of("0") + of("cpu") + of(size)
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + of(0) + of(shape)
    tensor = call + of(strides) + of(False) + of({}) + b"tR"
    return b"\x80\x02}" + b"".join(of(name) + tensor + b"s" for name in names) + b"."


def test_a_tensor_written_by_hand(tmp_path):
    numbers = np.arange(6, dtype=np.float32)
    path = archive_of(tmp_path / "a", pickled_tensor(6, (2, 3), (3, 1)), **{"0": numbers.tobytes()})
    np.testing.assert_array_equal(read_state_dict(path)["a"], numbers.reshape(2, 3))


@pytest.mark.parametrize(
    "size, shape, strides",
    [
        (6, (2, 4), (3, 1)),  # reads behind the end
        (6, (2**40, 3), (0, 1)),  # would be large
        (2**40, (2**40,), (1,)),
        (6, (2**200,), (1,)),
        (6, (-1, 3), (3, 1)),
        (6, (2, 3), (-3, 1)),
        (6, (2, 3), (3,)),
        (7, (2, 3), (3, 1)),
        (6, (2.0, 3), (3, 1)),
        (6, (0, 3), (3, 1)),
    ],
)
def test_tensors_that_lie_about_their_size(size, shape, strides, tmp_path):
    numbers = np.zeros(6, np.float32).tobytes()
    refused(archive_of(tmp_path / "a", pickled_tensor(size, shape, strides), **{"0": numbers}))


def test_tensors_that_share_their_numbers_are_no_way_to_fill_the_memory(tmp_path, monkeypatch):
    numbers = np.zeros(4096, np.float32).tobytes()
    one, three = (
        archive_of(tmp_path / names, pickled_tensor(4096, (4096,), (1,), names), **{"0": numbers})
        for names in ("a", "abc")
    )
    monkeypatch.setattr("spectralpost.state_dict.LARGEST", 2 * 4 * 4096)
    assert three.stat().st_size < 2 * 4 * 4096  # the file itself is not too large
    assert read_state_dict(one)["a"].shape == (4096,)
    refused(three)


def test_malicious_files(tmp_path, capsys):
    """Nothing is run, and nothing large is made."""
    nested = b"\x80\x02)" + b"q\x00h\x00\x86" * 70000 + b"."
    doubled = b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"}" + b"q\x01h\x00K\x01s."
    pickles = {
        "runs": (pickle.dumps({"a": Runs()}, 2), "print"),
        "newer": (pickle.dumps({"a": Runs()}, 4), "FRAME"),
        "names": (b"\x80\x02cos\nsystem\n.", "os system"),
        "endless": (nested, "instructions"),
        "hash": (doubled, "no text"),  # the hash of this key would take 2^60 steps
        "memo": (b"\x80\x02}r\xff\xff\xff\x7f.", ""),
        "long": (b"\x80\x02X\xff\xff\xff\x7fabc.", ""),
        "list": (pickle.dumps([1], 2), "not a dictionary"),
        "number": (pickle.dumps({"a": 1}, 2), "not a tensor"),
        "empty": (pickle.dumps({}, 2), "not a dictionary"),
        "stack": (b"\x80\x020.", "POP"),
        "bare": (b"\x80\x02.", ""),
    }
    for name, (pickled, match) in pickles.items():
        refused(archive_of(tmp_path / f"{name}.zip", pickled), match)
        head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        older = b"".join(pickle.dumps(one, 2) for one in head) + pickled + pickle.dumps([], 2)
        (tmp_path / f"{name}.older").write_bytes(older)
        refused(tmp_path / f"{name}.older", match)
    bomb = archive_of(tmp_path / "bomb", b"\0" * 10**6, zipfile.ZIP_DEFLATED)
    refused(bomb, "compressed")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**26 + 1)
    refused(tmp_path / "large", "more than")
    refused(tmp_path / "missing", "FileNotFoundError")
    refused(tmp_path, "cannot be read")
    assert "this was run" not in capsys.readouterr().out
