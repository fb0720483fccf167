"""ZePT (Jiang et al., CVPR 2024): tumors as what no organ query claims, refined by queries that know about tumors."""

from .model import ZePT

__all__ = ["ZePT"]
