"""MONAI Label 0.8.5 on a machine where torchvision is absent or cannot be loaded.

MONAI Label imports two drawing helpers from torchvision that nothing here calls; without the package it does not start.
Everything else must go on seeing that torchvision is not there, so the substitute is gone once they are imported.
"""

import importlib
import importlib.machinery
import sys
import types


def refuse(*args, **kwargs):
    """In the place of torchvision's drawing helpers."""
    raise RuntimeError("drawing grids of images needs torchvision, which is not installed")


def import_without_torchvision() -> None:
    """Import the modules of MONAI Label that need torchvision's names, with or without it."""
    try:
        importlib.import_module("torchvision.utils")
        return
    except (ImportError, RuntimeError, OSError):
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    importlib.import_module("monai")
    from transformers.utils import is_torchvision_available

    is_torchvision_available()  # its answer is remembered, and must be no
    package, utils = types.ModuleType("torchvision"), types.ModuleType("torchvision.utils")
    for module in (package, utils):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    package.__path__, package.utils = [], utils
    utils.make_grid = utils.save_image = refuse
    substitutes = {"torchvision": package, "torchvision.utils": utils}
    sys.modules.update(substitutes)
    try:
        for name in ("monailabel.transform.post", "monailabel.deepedit.handlers"):
            importlib.import_module(name)
    finally:
        for name in substitutes:
            sys.modules.pop(name, None)
