"""Malenia (Jiang et al., ICLR 2025): lesions as mask tokens aligned with eight text attributes."""

from .model import Malenia, Targets

__all__ = ["Malenia", "Targets"]
