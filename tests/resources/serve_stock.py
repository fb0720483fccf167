"""Start MONAI Label's own server, unchanged, on a machine where torchvision is absent or cannot be loaded."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "apps" / "zerotumor"))

from lib.compat import import_without_torchvision

sys.path.pop(0)
if __name__ == "__main__":
    import_without_torchvision()
    runpy.run_module("monailabel.main", run_name="__main__", alter_sys=True)
