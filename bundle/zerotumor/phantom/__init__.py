"""The phantom world: synthetic CT and MR with exact truth, as a pure function of a seed."""

from .lesions import LesionRecord
from .scanned import HealthyScan, healthy_scan
from .world import BODIES, Phantom, PhantomError, generate

__all__ = ["BODIES", "HealthyScan", "LesionRecord", "Phantom", "PhantomError", "generate", "healthy_scan"]
