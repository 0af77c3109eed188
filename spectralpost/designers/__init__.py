"""Schedules without a search: a network that maps a problem and a grid to the weights of all steps.

`train` fits it once per sampler; `shipped_designer` are four that are trained.
"""

from .files import load_designer as load_designer
from .files import save_designer as save_designer
from .files import shipped_designer as shipped_designer
from .network import Designer as Designer
from .network import design_schedule as design_schedule
from .training import penalised_loss as penalised_loss
from .training import random_problems as random_problems
from .training import train as train
