"""The command line: options, and errors in one line. What a command does is in `commands`.

JAX is imported only once a command runs.
"""

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from .errors import InputError

DegradationName = Literal["identity", "gaussian-blur", "uniform-blur", "motion-blur", "kernel"]
GridName = Literal["vp-linear", "vp-cosine", "ve-karras", "rectified-flow"]


@dataclass
class ProblemOptions:
    """What is to be restored, and on which noise levels: shared by `Design` and `Compare`."""

    images: Path | None = None
    """Folder of images that the prior is estimated from (default: photographs of scikit-image)."""
    size: int | None = None
    """Cut all images into tiles of this side, in pixels (default: images as they are; 128 for the
    built-in photographs)."""
    channels: Literal["rgb", "luminance"] = "rgb"
    """Colour planes as independent images, or their luminance alone."""
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    """Pixel values of black and white, as the denoiser takes them; sigma_y is in these units."""
    white_level: float | None = None
    """Pixel value that is white in integer files, such as 4095 for 12 bits in 16-bit files
    (default: the largest that the file's type holds)."""
    window: Literal["none", "hann"] = "none"
    """Taper of the images before their power spectrum is taken."""
    degradation: DegradationName = "gaussian-blur"
    """What happened to the photograph, besides noise. All blurs are circular."""
    blur_std: float = 2.0
    """gaussian-blur: standard deviation in pixels."""
    blur_size: int = 9
    """uniform-blur: side of the box in pixels, odd."""
    motion_length: float = 15.0
    """motion-blur: length in pixels."""
    motion_angle: float = 45.0
    """motion-blur: angle in degrees, 0 is horizontal."""
    kernel: Path | None = None
    """kernel: file with the kernel of a convolution: .npy, .txt, .csv, or a grey image."""
    sigma_y: float = 0.05
    """Standard deviation of the measurement noise, in units of the pixel range."""
    grid: GridName = "vp-linear"
    """Noise levels that the network was trained on."""
    spacing: Literal["uniform", "leading", "trailing", "quadratic"] = "uniform"
    """How the time steps of a vp grid are chosen."""


@dataclass
class Design(ProblemOptions):
    """Learn a guidance schedule for a folder of images, a degradation and a step budget."""

    sampler: str = "dps"
    """Sampler to learn for: see `spectralpost samplers`."""
    sampler_options: tuple[str, ...] = ()
    """Variants of the sampler as name=value, such as noiseless=true: see docs/conventions.md."""
    steps: int = 20
    """Number of sampling steps, which is the number of network calls."""
    eta: float | None = None
    """Stochasticity of the DDIM step, 0 to 1 (default: the sampler's published value)."""
    free: tuple[str, ...] | None = None
    """Weights to learn (default: all but eta, or eta if the sampler has no other)."""
    learn_levels: bool = False
    """Also learn which noise levels to visit; those of a vp grid become the nearest time steps."""
    starts: int = 48
    """Searches run side by side."""
    resume: Path | None = None
    """Folder of an earlier run with the same options, whose search goes on."""
    bins: int = 800
    """Frequencies are merged into this many bins while learning; the table is exact again."""
    photo: Path | None = None
    """Photograph to degrade and restore (default: the first image, kept out of the prior)."""
    seed: int = 0
    """Of the search, the measurement noise and the sampler's noise."""
    out: Path | None = None
    """New folder for the results (default: a fresh one under runs/)."""


@dataclass
class Compare(ProblemOptions):
    """Compare all samplers on one problem: published default, tuned constant, learned, exact."""

    samplers: tuple[str, ...] | None = None
    """Samplers to compare (default: all, see `spectralpost samplers`)."""
    steps: tuple[int, ...] = (10, 20)
    """Numbers of sampling steps."""
    starts: int = 16
    """Searches run side by side."""
    bins: int = 800
    """Frequencies are merged into this many bins while learning; the table is exact again."""
    check: bool = True
    """Also run the literal algorithm of samplers that divide by a norm, on images drawn from the
    prior, and say where their closed form does not hold."""
    seed: int = 0
    """Of the search and of the check."""
    out: Path | None = None
    """New folder for the results (default: a fresh one under runs/)."""


@dataclass
class Tradeoff(ProblemOptions):
    """Learn schedules between least error and most realistic images, beside what theory allows."""

    sampler: str = "dps"
    """Sampler to learn for: see `spectralpost samplers`."""
    sampler_options: tuple[str, ...] = ()
    """Variants of the sampler as name=value: see docs/conventions.md."""
    steps: int = 20
    """Number of sampling steps."""
    free: tuple[str, ...] | None = None
    """Weights to learn (default: all, eta included: noise is what buys realism)."""
    prices: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0, 10.0)
    """Weights of perception in mse + price * perception; a schedule is learned for each."""
    starts: int = 32
    """Searches run side by side."""
    bins: int = 800
    """Frequencies are merged into this many bins while learning; the table is exact again."""
    seed: int = 0
    """Of the search."""
    out: Path | None = None
    """New folder for the results (default: a fresh one under runs/)."""


@dataclass
class Evaluate:
    """Score a schedule on another problem than the one it was learned for."""

    schedule: Annotated[Path, "positional"]
    """Schedule file."""
    prior: Path | None = None
    """Prior file (default: prior.npz beside the schedule)."""
    degradation: DegradationName | None = None
    """Other degradation (default: the schedule's)."""
    blur_std: float = 2.0
    """gaussian-blur: standard deviation in pixels."""
    blur_size: int = 9
    """uniform-blur: side of the box in pixels, odd."""
    motion_length: float = 15.0
    """motion-blur: length in pixels."""
    motion_angle: float = 45.0
    """motion-blur: angle in degrees, 0 is horizontal."""
    kernel: Path | None = None
    """kernel: file with the kernel of a convolution: .npy, .txt, .csv, or a grey image."""
    sigma_y: float | None = None
    """Other measurement noise, in units of the schedule's pixel range (default: the schedule's)."""
    relearn: bool = True
    """Also learn a schedule for the other problem, to see what is lost by not doing so."""
    seed: int = 0
    """Of the search."""
    out: Path | None = None
    """New folder for the results (default: a fresh one under runs/)."""


@dataclass
class Restore:
    """Restore an image with a schedule and the Gaussian denoiser of its prior."""

    image: Annotated[Path, "positional"]
    """Degraded image; with --simulate the clean one, which is degraded first."""
    schedule: Path
    """Schedule file."""
    prior: Path | None = None
    """Prior file (default: prior.npz beside the schedule)."""
    simulate: bool = False
    """Degrade the image first, then restore it, and report PSNR."""
    samples: int = 1
    """Number of restored images to draw."""
    seed: int = 0
    """Of the measurement noise (with --simulate) and the sampler's noise."""
    out: Path | None = None
    """New folder for the results (default: a fresh one under runs/)."""


@dataclass
class Samplers:
    """List the samplers with their updates, weights and references."""


COMMANDS: dict[str, type] = {
    "design": Design,
    "compare": Compare,
    "tradeoff": Tradeoff,
    "evaluate": Evaluate,
    "restore": Restore,
    "samplers": Samplers,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `spectralpost`. Exits with 0, or with 2 and one line for bad input."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = parse(arguments)
        if not 0 <= getattr(options, "seed", 0) < 2**32:
            raise InputError(f"seed = {options.seed}: must be between 0 and 2^32 - 1")
        from . import commands  # here, not above: it imports JAX

        commands.run(options)
    except InputError as error:
        print(f"spectralpost: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("spectralpost: interrupted; nothing was written", file=sys.stderr)
        raise SystemExit(130) from None


def parse(arguments: Sequence[str]) -> Any:
    """The options of a command line; those of a `--config` file come first, so flags win."""
    import tyro

    arguments = _with_config(list(arguments))
    subcommands = [
        Annotated[_positional(options), tyro.conf.subcommand(name)]
        for name, options in COMMANDS.items()
    ]
    union: Any = subcommands[0]
    for subcommand in subcommands[1:]:
        union = union | subcommand
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                union,
                prog="spectralpost",
                description="Guidance schedules for diffusion posterior samplers. Every command "
                "also takes --config FILE.yaml with values of its options.",
                args=arguments,
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise InputError(_one_line(printed.getvalue())) from None


def to_yaml(options: Any) -> str:
    """Options as the text of a `--config` file; options that are None are left out."""
    import yaml

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    values = {field.name: plain(getattr(options, field.name)) for field in fields(options)}
    values = {name: value for name, value in values.items() if value is not None}
    return yaml.safe_dump(values, sort_keys=False)


def _with_config(arguments: list[str]) -> list[str]:
    """Replace `--config FILE` by the file's values, put before the other options."""
    found = [i for i, a in enumerate(arguments) if a == "--config" or a.startswith("--config=")]
    if not found:
        return arguments
    i = found[0]
    given = arguments[i].removeprefix("--config").removeprefix("=")
    rest = arguments[:i] + arguments[i + 1 :]
    if not given:
        if i + 1 == len(arguments):
            raise InputError("--config: a YAML file is needed")
        given = rest.pop(i)
    if not rest or rest[0] not in COMMANDS:
        raise InputError(f"--config: name a command first, one of {', '.join(COMMANDS)}")
    flags, positional = _config_arguments(given, COMMANDS[rest[0]])
    if rest[1:] and not rest[1].startswith("-"):
        positional = []
    return [rest[0], *flags, *positional, *rest[1:]]


def _config_arguments(path: str, options: type) -> tuple[list[str], list[str]]:
    """The flags and the positional arguments that a file stands for."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(f"config {path!r}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"config {path!r}: not a YAML file ({message})") from error
    if not isinstance(values, dict):
        raise InputError(f"config {path!r}: must hold `option: value` lines")
    known = {field.name: field for field in fields(options)}
    arguments, positional = [], []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise InputError(
                f"config {path!r}: unknown option {key!r}; allowed: {', '.join(known)}"
            )
        flag = "--" + name.replace("_", "-")
        if _is_positional(known[name]):
            positional.append(str(value))
        elif isinstance(value, bool):
            arguments.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list):
            arguments += [flag, *map(str, value)]
        elif value is not None:
            arguments += [flag, str(value)]
    return arguments, positional


def _is_positional(field: Any) -> bool:
    return getattr(field.type, "__metadata__", ()) == ("positional",)


def _positional(options: type) -> type:
    """tyro's own marker in place of the word "positional": tyro is not imported at module level."""
    import tyro

    for field in fields(options):
        if _is_positional(field):
            options.__annotations__[field.name] = tyro.conf.Positional[Path]
    return options


def _one_line(text: str) -> str:
    """The message in one of tyro's boxes, without the box, its title and the advice below it."""
    # Sections between rules: the title (in the frame itself if the terminal has Unicode), the
    # message, advice.
    sections: list[list[str]] = [[]]
    for line in text.splitlines():
        content = line.strip("│╰╯ ")
        if content and not content.strip("─-╭╮"):
            sections.append([])
        elif line.startswith("╭"):
            sections = [["title"], []]
        else:
            sections[-1] += content.split()
    words = sections[1] if len(sections) > 1 else sections[0]
    message = " ".join(words) or "bad command line"
    return f"{message.rstrip('.')} (see --help)"
