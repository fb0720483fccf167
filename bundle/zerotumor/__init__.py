"""ZeroTumor: zero-shot tumor segmentation in CT and MR by text."""

__version__ = "0.2.0"
"""Also in DICOM objects that are exported; what changed stands in `changelog` of configs/metadata.json."""
