"""Schedules without a search: a network that maps a problem and a grid to the weights of all steps.

`train` fits it once per sampler; `shipped_designer` are four that are trained.
"""

from .files import load_designer, save_designer, shipped_designer
from .network import Designer, design_schedule
from .training import penalised_loss, random_problems, train
