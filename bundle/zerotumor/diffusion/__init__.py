"""A latent diffusion model that is trained once and then frozen: networks, schedules, weights, and how to train them."""

from .prior import Condition, DiffusionPrior

__all__ = ["Condition", "DiffusionPrior"]
