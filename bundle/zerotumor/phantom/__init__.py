"""The phantom world: synthetic CT and MR with exact truth, as a pure function of a seed."""

from .lesions import LesionRecord
from .world import BODIES, Phantom, PhantomError, generate

__all__ = ["BODIES", "LesionRecord", "Phantom", "PhantomError", "generate"]
