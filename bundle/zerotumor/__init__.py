"""ZeroTumor: zero-shot tumor segmentation in CT and MR by text."""

__version__ = "0.1.0"
