"""ZeroTumor as a MONAI Label app: type what you look for, click to correct, save.

python -m monailabel.main start_server --app apps/zerotumor --studies FOLDER_OR_DICOMWEB_URL

Settings (`--conf NAME VALUE`): bundle: folder of the bundle, by default the repository's. models: folder with weights of
your own. cache_share: part of the free memory for encoded scans (0.3). random: the strategy that OHIF's "Next Sample"
gets, which always asks for `random` (random, first, tumor_uncertainty, tumor_committee, tumor_diversity, tumor_mix). device:
where networks compute: cpu, cuda, cuda:1, or auto (a GPU, if there is one). state: folder for the history of clicks, for
proposals and for training runs, by default inside the app's folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

APP = Path(__file__).resolve().parent
if str(APP) not in sys.path:
    sys.path.insert(0, str(APP))

from lib.compat import import_without_torchvision  # noqa: E402

import_without_torchvision()

from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from monailabel.interfaces.tasks.strategy import Strategy  # noqa: E402

SET_BY_THE_APP = ("header_modality", "dicom_folder")
"""Parts of a request that are the app's own: what a client writes there is dropped."""


class ZeroTumorApp(MONAILabelApp):
    """Two tasks (text, clicks), a trainer, scoring, strategies; all model code lies in the bundle."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundle = Path(conf.get("bundle") or APP.parents[1] / "bundle").resolve()
        if not (self.bundle / "zerotumor").is_dir():
            raise FileNotFoundError(
                f"{self.bundle} is not the bundle (it has no folder zerotumor): set --conf bundle PATH"
            )
        if str(self.bundle) not in sys.path:
            sys.path.insert(0, str(self.bundle))
        import zerotumor

        self.state = Path(conf.get("state") or Path(app_dir) / "state").resolve()
        # No `labels`: OHIF needs the list that MONAI Label makes from the tasks, and breaks on a dictionary.
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="ZeroTumor",
            description="Tumors by text, corrected by clicks",
            version=zerotumor.__version__,
        )
        store = self.datastore()
        if hasattr(store, "provenance"):
            store.provenance = self.provenance

    def image_roots(self) -> list[Path]:
        """Folders that images of requests may lie in: the datastore (or its cache), and the sessions."""
        folder, sessions = getattr(self.datastore(), "_datastore_path", None), self.sessions()
        return [Path(place) for place in (folder, sessions.store_path if sessions is not None else None) if place]

    def init_datastore(self):
        from lib.store import Folder
        from monailabel.config import settings

        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return Folder(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_remote_datastore(self):
        from lib.archive import Archive
        from monailabel.datastore.dicom import DICOMWebDatastore

        store = super().init_remote_datastore()
        return Archive.like(store) if type(store) is DICOMWebDatastore else store

    def infer(self, request: dict, datastore=None) -> dict:
        """As MONAI Label's, see `answer`; a client that asks for a file where there is none is told why."""
        from lib.answers import NoFile

        result = self.answer(request, datastore)
        if not result["file"]:
            result["file"] = result["label"] = NoFile(result["params"].get("message") or "there is no result")
        return result

    def batch_infer(self, request: dict, datastore=None) -> dict:
        """As MONAI Label's; its answers become JSON, in which a file that is not there is null."""
        return self._batch_infer(self.by_default(request), datastore or self.datastore(), self.answer)

    def answer(self, request: dict, datastore=None) -> dict:
        """As MONAI Label's, and what the archive knows of the scan goes along: the file made for clients has lost it."""
        from lib.archive import facts_of
        from lib.options import refuse

        from zerotumor.errors import DeviceError

        image, datastore = request.get("image"), datastore or self.datastore()
        request = {k: v for k, v in request.items() if k not in SET_BY_THE_APP}
        if isinstance(image, str) and not os.path.exists(image):
            request |= facts_of(image, datastore)
        try:
            return super().infer(self.by_default(request), datastore)
        except DeviceError as error:
            raise refuse(str(error), 503) from None

    def by_default(self, request: dict) -> dict:
        """A request that names a method."""
        return {"method": self.engine.offered[0], **request}

    def provenance(self, image_id: str, labels, info: dict) -> dict:
        """Where a label that is about to be saved comes from, see `lib.provenance`."""
        store = self.datastore()
        folder = store.series_folder(image_id) if hasattr(store, "series_folder") else ""
        digest = self.engine.digest(Path(folder or store.get_image_uri(image_id)))
        return self.ledger.describe(digest, labels, info)

    def init_infers(self) -> dict:
        from lib.engine import Engine
        from lib.history import Histories
        from lib.provenance import Ledger
        from lib.refine import TumorRefine
        from lib.scribbles import Scribbles
        from lib.tumor import Tumor

        from zerotumor.devices import AUTO

        models = self.conf.get("models")
        share = float(self.conf.get("cache_share", 0.3))
        device = self.conf.get("device", AUTO)
        self.engine = engine = Engine(
            Path(models) if models else None, share, self.image_roots, self.state / "versions", device
        )
        self.ledger = Ledger(self.state / "proposals")
        histories = Histories(self.state / "clicks")
        push = getattr(self.datastore(), "push", None)
        return {
            "tumor": Tumor(engine, histories, push, self.ledger),
            "tumor_refine": TumorRefine(engine, histories, push, ledger=self.ledger),
            "Histogram+GraphCut": Scribbles(engine),
        }

    def init_trainers(self) -> dict:
        from lib.trainer import TrainTumor

        return {"tumor": TrainTumor(self.engine, self.state / "versions", self.state / "runs")}

    def init_scoring_methods(self) -> dict:
        from lib.active import DiceScoring, UncertaintyScoring

        return {"tumor_uncertainty": UncertaintyScoring(self._infers["tumor"]), "dice": DiceScoring()}

    def init_strategies(self) -> dict[str, Strategy]:
        from lib.active import strategies

        offered = strategies(self._infers["tumor"])
        chosen = self.conf.get("random", "random")
        if chosen not in offered:
            raise ValueError(f"--conf random must be one of {', '.join(offered)}, not {chosen!r}")
        return {**offered, "random": offered[chosen]}

    def init_batch_infer(self):
        from lib.batch import ResumableBatch

        return ResumableBatch(self._infers)


os.environ.setdefault("MONAI_LABEL_TRACKING_ENABLED", "false")
