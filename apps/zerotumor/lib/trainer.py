"""The trainer `tumor`: the bundle's own train.yaml, from the weights in use, to a new version beside them."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from monai.bundle import ConfigWorkflow
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zerotumor.segmenter import METHODS, MODELS

from .options import refuse

logger = logging.getLogger(__name__)


class TrainOptions(BaseModel):
    """What a client may set."""

    model_config = ConfigDict(extra="ignore")

    max_epochs: int = Field(2, ge=1, le=1000)
    epoch_length: int = Field(50, ge=1, le=10_000)
    train_count: int = Field(100, ge=4, le=100_000)
    val_count: int = Field(8, ge=1, le=1000)
    learning_rate: float = Field(3e-4, gt=0, le=0.1)


class TrainTumor(TrainTask):
    """Goes on training on phantoms. The weights in use are never overwritten: each run has a folder of its own.

    Args:
        bundle: the bundle's folder. runs: where runs go.
    """

    def __init__(self, bundle: Path, runs: Path) -> None:
        super().__init__("Train on phantoms from the present weights, to a new version beside them")
        self.bundle, self.runs = bundle, runs

    def config(self) -> dict:
        """Options with their defaults."""
        return TrainOptions().model_dump()

    def stats(self) -> dict:
        """What the newest finished run says of itself."""
        records = sorted(self.runs.glob("*/model.json"), key=lambda f: f.stat().st_mtime)
        if not records:
            return {}
        trained = json.loads(records[-1].read_text()).get("trained", {})
        return {"version": records[-1].parent.name, **trained}

    def __call__(self, request: dict, datastore: Datastore) -> dict:
        """Train; returns the new version and where it lies.

        Raises:
            HTTPException: an option is out of range.
        """
        known = {k: v for k, v in request.items() if k in TrainOptions.model_fields and v is not None}
        try:
            options = TrainOptions.model_validate(known)
        except ValidationError as error:
            first = error.errors()[0]
            raise refuse(f"the option {first['loc'][0]} cannot be used: {first['msg']}") from None
        version = time.strftime("%Y%m%d-%H%M%S")
        folder = self.runs / version
        workflow = ConfigWorkflow(
            config_file=str(self.bundle / "configs" / "train.yaml"),
            meta_file=str(self.bundle / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            bundle_root=str(self.bundle),
            output_dir=str(folder),
            pretrained=str(MODELS / METHODS["malenia"].weights),
            workers=0,
            **options.model_dump(),
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        logger.info(f"trained version {version} in {folder}")
        return {"version": version, **self.stats()}
