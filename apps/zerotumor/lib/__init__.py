"""Wiring between MONAI Label and the package `zerotumor` of the bundle."""
