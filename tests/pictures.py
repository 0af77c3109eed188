"""Image files for tests."""

import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile


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


def write_deep_png(path: Path, image: np.ndarray) -> Path:
    """Write [H, W, 2..4] uint16 as a PNG, which Pillow cannot; each line as differences (Sub)."""
    height, width, channels = image.shape
    raw = image.astype(">u2").view(np.uint8).reshape(height, -1)
    lines = raw.copy()
    lines[:, 2 * channels :] -= raw[:, : -2 * channels]
    lines = np.concatenate([np.ones((height, 1), np.uint8), lines], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = {b"IHDR": head, b"IDAT": zlib.compress(lines.tobytes()), b"IEND": b""}
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks.items():
        check = struct.pack(">I", zlib.crc32(kind + data))
        parts += [struct.pack(">I", len(data)), kind, data, check]
    path.write_bytes(b"".join(parts))
    return path


def texture(shape: tuple[int, int], channels: int = 3, seed: int = 0) -> np.ndarray:
    """Something like a photograph, [H, W, C]: Gaussian, spectrum 1 / |f|^2, 15 % contrast."""
    fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    f = np.maximum(np.hypot(fy, fx), 1 / max(shape))
    white = np.random.default_rng(seed).normal(size=(channels, *shape))
    planes = np.fft.ifft2(np.fft.fft2(white) / f).real
    grey = np.clip(0.5 + 0.15 * planes / planes.std(), 0, 1)
    return np.rint(255 * np.moveaxis(grey, 0, -1)).astype(np.uint8)
