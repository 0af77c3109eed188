"""Image files for tests."""

import gc
from pathlib import Path

import numpy as np
import pytest
import tifffile

# imageio leaves files open that it cannot read. Let go of them in the test that did it, or the
# warning, which is an error here, falls on some later test.
IGNORE_UNCLOSED = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture
def unreadable_image():
    """For tests with a file that is no image, marked `IGNORE_UNCLOSED`."""
    yield
    gc.collect()


def pixels(*shape: int, high: int = 255, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    """Random integers that include both ends of the range."""
    values = np.random.default_rng(seed).integers(0, high, shape, endpoint=True)
    values.flat[:2] = 0, high
    return values.astype(dtype)


def write(path: Path, image: np.ndarray) -> Path:
    """Write pixels [H, W] or [H, W, C] as they are, in the format of the name's ending."""
    import skimage.io

    if path.suffix == ".tif":
        colour = image.ndim == 3 and image.shape[-1] == 3
        tifffile.imwrite(path, image, photometric="rgb" if colour else "minisblack")
    else:
        skimage.io.imsave(path, image, check_contrast=False)
    return path


def texture(shape: tuple[int, int], channels: int = 3, seed: int = 0) -> np.ndarray:
    """Something like a photograph, [H, W, C]: Gaussian, spectrum 1 / |f|^2, 15 % contrast."""
    fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    f = np.maximum(np.hypot(fy, fx), 1 / max(shape))
    white = np.random.default_rng(seed).normal(size=(channels, *shape))
    planes = np.fft.ifft2(np.fft.fft2(white) / f).real
    grey = np.clip(0.5 + 0.15 * planes / planes.std(), 0, 1)
    return np.rint(255 * np.moveaxis(grey, 0, -1)).astype(np.uint8)
