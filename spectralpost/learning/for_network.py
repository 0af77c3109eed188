"""What `learn` needs to know of a schedule that is meant for a trained network."""

from typing import TypedDict

from ..denoiser_use import differentiates_denoiser
from ..samplers.base import Sampler
from .loss import Prices
from .parameters import Freedom
from .preparing import default_free

# Of the spectrum, see `Prices`.
SCALES = (5.0, 0.2)
SMOOTHNESS = 0.1
# Where the denoiser is differentiated, and where not.
STRICT, LOOSE = 1.5, 3.0
# Samplers whose eta is worth learning on a network.
ETA = ("pigdm", "mpgd")


class ForNetwork(TypedDict):
    """Arguments of `learn`."""

    free: tuple[str, ...]
    freedom: Freedom
    prices: Prices


def for_network(sampler: Sampler) -> ForNetwork:
    """Arguments of `learn` for a schedule that a trained network uses.

    `learn(sampler, problem, levels, **for_network(sampler))`, with the problem of a calibrated
    prior (`calibrate`). Without them `learn` finds the optimum of the model, for its own denoiser.

    Noise levels are learned as well; neighbouring steps are alike; the schedule also serves images
    of 5 times and 1/5 of the spectrum, so that no step relies on another to undo what it did with
    a slope that the network has on average only. For the same reason signals are held within 1.5
    times what the denoiser was made for where the sampler differentiates it. Others see only its
    values, which are the model's on average: 3 times, as without these arguments. eta is learned
    for PiGDM and MPGD; DPS needs all of its fresh noise.

    Chosen on training images with the shipped network; what each buys: docs/real_networks.md.
    """
    free = default_free(sampler)
    if sampler.name in ETA:
        free = tuple(sampler.constraint)
    limit = STRICT if differentiates_denoiser(sampler) else LOOSE
    return ForNetwork(
        free=free, freedom=Freedom(levels=True), prices=Prices(limit, SMOOTHNESS, SCALES)
    )
