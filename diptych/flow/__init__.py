"""Flow matching as pure functions: path, noise-level laws, objective, solver, guidance.

One convention everywhere: noise level sigma, 0 = clean, 1 = noise; x_sigma = (1 - sigma) x0 + sigma * scale *
eps; velocity v = scale * eps - x0, so dx/dsigma = v. SenseNova-U1's t is 1 - sigma and its velocity is -v.
"""

from diptych.flow.config import FlowConfig, SamplerConfig
from diptych.flow.guidance import ProjectedGuidance, guided_velocity, passes_needed
from diptych.flow.law import NoiseLaw
from diptych.flow.path import interpolate, noise_scale, to_velocity, training_sigma, velocity_target
from diptych.flow.solver import dpm, euler, levels_of, sigmas, solve
from diptych.flow.trigflow import angles, trigflow

__all__ = [
    "FlowConfig",
    "NoiseLaw",
    "ProjectedGuidance",
    "SamplerConfig",
    "angles",
    "dpm",
    "euler",
    "guided_velocity",
    "interpolate",
    "levels_of",
    "noise_scale",
    "passes_needed",
    "sigmas",
    "solve",
    "to_velocity",
    "training_sigma",
    "trigflow",
    "velocity_target",
]
