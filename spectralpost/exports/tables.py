"""Plain numbers: CSV and NumPy's npz."""

import csv
import io
import json
from typing import Any, cast

import numpy as np

from ..schedule import Schedule
from .base import Export, Weights, check_steps_alone, levels_of


def to_csv(schedule: Schedule, weights: Weights) -> Export:
    """One line a step; numbers are read back exactly."""
    check_steps_alone("csv", schedule)
    alpha, sigma = (one.tolist() for one in levels_of(schedule).values())
    timesteps = schedule.timesteps or [""] * (len(alpha) - 1)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    names = ("step", "timestep", "alpha_t", "sigma_t", "alpha_s", "sigma_s")
    lines.writerow([*names, *weights])
    for i, step in enumerate(timesteps):
        levels = [alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]]
        row = [*levels, *(float(weights[name][i]) for name in weights)]
        lines.writerow([i, step, *map(repr, row)])
    numbers = (
        []
        if schedule.timesteps is None
        else ['timestep = [int(step["timestep"]) for step in steps]']
    )
    numbers += [
        f'{name} = [float(step["{name}"]) for step in steps]' for name in (*names[2:], *weights)
    ]
    usage = (
        "import csv",
        'with open("{file}", newline="") as file:',
        "    steps = list(csv.DictReader(file))",
        *numbers,
    )
    return Export(text.getvalue().encode("ascii"), ".csv", usage)


def to_npz(schedule: Schedule, weights: Weights) -> Export:
    """alpha and sigma [S + 1], timestep [S], the weights by name [S] or [S, bands], band_knots, and
    the problem, with the objective and its value there, as a text of JSON."""
    alpha, sigma = levels_of(schedule).values()
    arrays = {"alpha": alpha, "sigma": sigma, **weights}
    if schedule.timesteps is not None:
        arrays["timestep"] = np.asarray(schedule.timesteps)
    if schedule.band_knots is not None:
        arrays["band_knots"] = np.asarray(schedule.band_knots, float)
    problem = {
        "sampler": schedule.sampler_name,
        "sampler_options": schedule.sampler_options,
        "degradation": schedule.degradation_name,
        "degradation_options": schedule.degradation_options,
        "sigma_y": schedule.sigma_y,
        "pixel_range": schedule.pixel_range,
        "shape": schedule.shape,
        "channels": schedule.channels,
        "objective": schedule.objective,
        "loss": schedule.loss,
    }
    arrays["problem"] = np.asarray(json.dumps(problem))
    file = io.BytesIO()
    np.savez(file, **cast("dict[str, Any]", arrays))
    usage = (
        "import json, numpy as np",
        'schedule = np.load("{file}")',
        *(f'{name} = schedule["{name}"]' for name in arrays if name != "problem"),
        'problem = json.loads(str(schedule["problem"]))',
    )
    return Export(file.getvalue(), ".npz", usage)
