"""`spectralpost train`: a denoiser for one kind of image."""

import json
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from .. import figures
from ..denoisers.training import FEWEST, LEVELS, Progress, Recipe, Trained, train
from ..denoisers.unet import save_unet
from ..errors import InputError, times
from ..images import REC_709, Channels, stream_folder, tiles
from ..options import Train
from .console import Say, console, quiet


class Result(NamedTuple):
    """A network, and how it does on images that were kept out."""

    trained: Trained
    recipe: Recipe
    data: str  # what it was trained on, in words
    notes: tuple[str, ...]  # what there is to say of the files


def compute(options: Train, say: Say = quiet) -> Result:
    """Train a U-Net on images."""
    if not options.data:
        raise InputError("data: name a folder of images, or a file of arrays")
    recipe = Recipe(**{name: getattr(options, name) for name in Recipe._fields})
    recipe.check()
    notes: list[str] = []
    sets = []
    for given in options.data:
        sets += images_of(given, options.channels, recipe.patch, notes)
    if not sets:
        raise InputError(f"data: no image is of {recipe.patch}x{recipe.patch} pixels or more")

    def tell(progress: Progress) -> None:
        say(f"training: step {progress.step} of {progress.steps}, loss {progress.loss:.4f}")

    try:
        trained = train(sets, recipe, options.checkpoints, tell)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the same command goes on from the last checkpoint in {options.checkpoints}, "
            "if there is one"
        ) from None
    sizes = ", ".join(times(images.shape[:3]) for images in sets)
    data = f"{', '.join(Path(given).name for given in options.data)} ({sizes})"
    return Result(trained, recipe, data, tuple(notes))


def write(result: Result, folder: Path) -> None:
    trained = result.trained
    save_unet(folder / "unet.msgpack", trained.denoiser)
    found = {
        "data": result.data,
        "recipe": result.recipe._asdict(),
        "sigma": list(LEVELS),
        "PSNR": trained.psnr,
        "losses": trained.losses,
    }
    (folder / "training.json").write_text(json.dumps(found, indent=1) + "\n")
    gain = np.subtract(trained.psnr["network"], trained.psnr["gaussian"]).tolist()
    figure = figures.training_figure(LEVELS, gain, trained.losses, result.data)
    figures.save_figure(figure, folder / "training.png")


def present(result: Result) -> None:
    table = Table(title="PSNR in dB on images kept out, alpha = 1, pixels in [-1, 1]")
    for column in ("sigma", "network", "Gaussian denoiser", "gain"):
        table.add_column(column, justify="right")
    psnr = result.trained.psnr
    for sigma, ours, gaussian in zip(LEVELS, psnr["network"], psnr["gaussian"], strict=True):
        table.add_row(f"{sigma:g}", f"{ours:.2f}", f"{gaussian:.2f}", f"{ours - gaussian:+.2f}")
    console.print(table)


def images_of(given: str, channels: Channels, patch: int, notes: list[str]) -> list[np.ndarray]:
    """Sets of images [N, H, W, planes] of 8 bits: of a folder, or of a file FILE.npz:NAME.

    Photographs of a folder are cut into tiles of two patches a side where they are large enough,
    else of one.
    """
    path, _, name = given.partition(".npz:")
    if name or given.endswith((".npz", ".npy")):
        stored = _stored(Path(path + ".npz" if name else given), name)
        return [_in_channels(given, stored, channels)]
    found = defaultdict(list)
    folder = stream_folder(given, channels, (0.0, 255.0), notice=notes.append)
    for file, image in folder:
        side = 2 * patch if min(image.shape[1:]) >= 2 * patch else patch
        cut = tiles(image, side)
        if not len(cut):
            notes.append(f"{file}: smaller than a patch, left out")
        found[side].append(np.rint(cut).astype(np.uint8))
    large = found.pop(2 * patch, [])
    if found and sum(map(len, large)) < FEWEST:  # too few for a set of their own
        large = [np.concatenate([tiles(one, patch) for one in cut]) for cut in large if len(cut)]
        found[patch] += large
    elif large:
        found[2 * patch] = large
    sets = [np.concatenate(some) for some in found.values()]
    return [np.moveaxis(images, 1, -1) for images in sets if len(images)]


def _stored(path: Path, name: str) -> np.ndarray:
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            return stored
        with stored:
            names = stored.files
            if not name and len(names) > 1 and "train" not in names:
                raise InputError(
                    f"data = {str(path)!r}: holds {', '.join(names)}; name one as {path}:{names[0]}"
                )
            name = name or (names[0] if len(names) == 1 else "train")
            if name not in names:
                raise InputError(f"data = '{path}:{name}': holds {', '.join(names) or 'no array'}")
            return stored[name]
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"data = {str(path)!r}: cannot be read ({error})") from error


def _in_channels(given: str, images: np.ndarray, channels: Channels) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise InputError(
            f"data {given!r} of shape {images.shape}, {images.dtype}: 8 bits [N, H, W] or "
            "[N, H, W, planes] are needed"
        )
    if images.ndim == 3:
        images = images[..., None]
    if channels == "luminance" and images.shape[-1] == 3:
        return np.rint(images @ REC_709.astype(np.float32)[:, None]).astype(np.uint8)
    return images
