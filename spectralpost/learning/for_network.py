"""What `learn` needs to know of a schedule that is meant for a trained network."""

from typing import TypedDict

from ..denoiser_use import differentiates_denoiser
from ..noise import NoiseLevel, num_steps_of
from ..samplers.base import Sampler, check_kinds
from .loss import Prices
from .parameters import Freedom
from .preparing import default_free

# Of the spectrum, see `Prices`: where the denoiser is differentiated, in MANY steps the busiest as
# well; and where it is not.
SCALES, BUSIEST = (5.0, 0.2), 25.0
MANY = 20
VALUE_SCALES = (5.0, 0.01)
SMOOTHNESS = 0.1
# Of amplification: where the denoiser is not differentiated, and where it is.
LOOSE, STRICT = 2.0, 1.5
# Where it is not, in so many steps: STRICT, but weak modes 1 + steps / BY_MODE times as much, this
# at most.
BY_MODE, WEAK_MODES = 50, 3.0
PER_STEP, TIGHTEST = 10.0, 1.2  # STRICT is 1 + PER_STEP / steps at most, but no less than that


class ForNetwork(TypedDict):
    """Arguments of `learn`."""

    free: tuple[str, ...]
    freedom: Freedom
    prices: Prices


def for_network(sampler: Sampler, levels: NoiseLevel) -> ForNetwork:
    """Arguments of `learn` for a schedule that a trained network uses.

    `learn(sampler, problem, levels, **for_network(sampler, levels))`, with the problem of a
    calibrated prior (`calibrate`). Without them `learn` finds the optimum of the model, for its own
    denoiser. Levels that it learns are between those that the network was trained on:
    `learn_on_grid(..., network=True)` asks for the same and rounds them.

    Neighbouring steps are alike, and the schedule also serves images of 5 times and 1/5 of the
    spectrum, so that no step relies on another to undo what it did with a slope that the network
    has on average only. For the same reason signals are held within 1.5 times what the denoiser was
    made for where the sampler differentiates it. Many steps have more to play off against each
    other: in more than 20 within 1 + 10 / steps, from 50 on within 1.2; from 20 on at 25 times the
    spectrum as well.
    Other samplers see only the network's values, which are the model's on average: within 2 times,
    but at 1/100 of the spectrum in place of 1/5. The model hands strong modes such as brightness on
    as they are, and steps may rely on that and overshoot; not all networks do. At 1/100 the model
    does not, and such steps are seen to grow. In many steps it is the measurement's noise in weak
    modes that reaches the limit first, which does no harm: from 50 on strong modes are held within
    1.5 times, weak ones within 3, in 100 within 4.5. Those whose weights are all shares between 0
    and 1 may also do what their published default and tuned constant both do at the worst scale.
    Noise levels and eta are learned where that pays (`Sampler.for_network`).

    Chosen on training images with the shipped network, and those of samplers that see only values
    with FFDNet as well; what each buys: docs/real_networks.md.

    >>> sp.for_network(sampler, levels)["prices"].max_amplification
    1.5
    """
    check_kinds(sampler, None)
    eta = "eta" in sampler.for_network
    free = tuple(sampler.constraint) if eta else default_free(sampler)
    steps = num_steps_of(levels)
    if differentiates_denoiser(sampler):
        limit = min(STRICT, max(TIGHTEST, 1 + PER_STEP / steps))
        prices = Prices(limit, SMOOTHNESS, (*SCALES, BUSIEST) if steps >= MANY else SCALES)
    elif steps < BY_MODE:
        prices = Prices(LOOSE, SMOOTHNESS, VALUE_SCALES)
    else:
        weak_modes = min(WEAK_MODES, 1 + steps / BY_MODE)
        prices = Prices(STRICT, SMOOTHNESS, VALUE_SCALES, weak_modes)
    return ForNetwork(
        free=free,
        freedom=Freedom(levels="levels" in sampler.for_network),
        prices=prices,
    )
