"""DiffuGTS (Jiang et al., CVPR 2025): a frozen diffusion model that knows health, and what it would draw differently."""

from .model import DiffuGTS

__all__ = ["DiffuGTS"]
