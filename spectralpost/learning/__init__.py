"""Learning schedules: one door, `learn`. Reading order: guidance, jacobian, gradient, parameters,
loss, levenberg_marquardt, lanes, search, zoom, baselines, generations, preparing, halving,
searching, learn, for_network, continuing, on_grid."""

from .baselines import evaluate, evaluate_exact, heuristic, plateau, tuned_constant
from .continuing import HasSchedule, starts_from
from .for_network import ForNetwork, for_network
from .generations import random_starts
from .gradient import loss_and_gradient
from .guidance import constrain, low_pass, per_mode, unconstrain
from .lanes import Method, advance, begin
from .learn import HOLDS, LearnResult, constant_that_holds, learn, sensitivity
from .loss import Loss, Prices, Several, is_dense, loss_of
from .on_grid import Learned, learn_on_grid
from .parameters import LEVELS, Decoded, Freedom, Parameters, parameters_of, schedule_of
from .preparing import Prepared, default_free, prepare
from .search import LEAST_SQUARES, Progress, Search
