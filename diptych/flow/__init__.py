"""Flow matching as pure functions: path, noise-level laws, objective, solver, guidance.

One convention everywhere: noise level sigma, 0 = clean, 1 = noise; x_sigma = (1 - sigma) x0 + sigma * scale *
eps; velocity v = scale * eps - x0, so dx/dsigma = v. SenseNova-U1's t is 1 - sigma and its velocity is -v.
"""

from typing import TYPE_CHECKING

from diptych.flow.config import FlowConfig, SamplerConfig
from diptych.flow.law import NoiseLaw
from diptych.flow.objective import Objective, to_velocity
from diptych.lazy import attributes

if TYPE_CHECKING:
    from diptych.flow.guidance import guided_velocity, passes_needed, projected_guidance
    from diptych.flow.path import interpolate, noise_scale
    from diptych.flow.shapes import per_row
    from diptych.flow.solver import DPM, Euler, Solver, integrate, levels_of, sigmas, solve, solver_of
    from diptych.flow.trigflow import TrigFlow, angles

__all__ = [
    "DPM",
    "Euler",
    "FlowConfig",
    "NoiseLaw",
    "Objective",
    "SamplerConfig",
    "Solver",
    "TrigFlow",
    "angles",
    "guided_velocity",
    "integrate",
    "interpolate",
    "levels_of",
    "noise_scale",
    "passes_needed",
    "per_row",
    "projected_guidance",
    "sigmas",
    "solve",
    "solver_of",
    "to_velocity",
]

# configs need no torch, all else does
__getattr__ = attributes(__name__, ("path", "shapes", "guidance", "objective", "solver", "trigflow"))
