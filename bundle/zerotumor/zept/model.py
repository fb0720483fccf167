"""ZePT: zero-shot tumor segmentation by organ queries and tumor queries (Jiang et al., CVPR 2024).

image -> backbone -> organ queries grouped through four levels -> anomaly map: what no organ claims -> tumor queries that
look there and reason with the organ queries -> a prompt picks tumor queries by what is known of them, and its organs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import LazyMasks, masks_of
from ..contrast import clamped_temperature
from ..places import place_match
from ..prompts import Prompt, asks_for_anomaly
from ..segmenter import Segmentation, Segmenter
from .alignment import KnowledgeBank
from .anomaly import anomaly_map, blocked, host_gate, limit, normalize, value_range
from .classes import class_set
from .grouping import FundamentalQueries
from .offsets import Offsets
from .options import Options
from .pyramid import LEVELS, Pyramid, ResidualPyramid, SwinPyramid, check_edges
from .refine import QueryRefine
from .selection import fixed_slot, slot_weights, wanted_hosts

VECTORS = 20.0
"""The rate of the organs' vectors: they start at 0, and what they are added to is of size one."""
SCORE_VOXELS = 8
"""A prompt's score is the mean probability of its so many most probable voxels: one voxel alone says nothing."""


class ZePT(Segmenter):
    """The method, whole; see `bundle/docs/methods.md` for the paper's section behind each part.

    Args:
        classes: "starter" or "paper", see `classes`. backbone: "residual" (`channels`, `mask_channels`, `gain`,
        `fine_channels`) or "swin" (`feature_size`). in_channels: 2, or 1 for the soft-tissue window alone, as in the paper.
        width: of the tumor queries; None for the paper's, that of the coarsest map. heads: of all attention. text_dim: width
        of the text encoder. spacing: mm of the grid. patch: edge of training patch and window, voxels. theta: probability
        from which a voxel is painted; of the anomaly prompt, one half. theta_peak, edge_weight, zooms, tight_zooms: see
        `Segmenter`. place: exponent of how well a voxel's place fits the organs of a prompt (`places.place_match`); ours,
        0 in the paper. options: see `options.Options`.

    Raises:
        ValueError: an argument is not among its choices.
    """

    maps = ("anomaly",)
    has_ungated = True  # counted from no theta

    def __init__(
        self,
        classes: str = "starter",
        backbone: str = "residual",
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        mask_channels: int = 16,
        feature_size: int = 48,
        in_channels: int = 2,
        width: int | None = 64,
        heads: int = 4,
        text_dim: int = 384,
        spacing: float = 4.0,
        patch: int = 48,
        theta: float = 0.5,
        theta_peak: float = 0.0,
        edge_weight: float = 0.0,
        zooms: Sequence[float] = (1.0,),
        tight_zooms: Sequence[float] | None = None,
        place: float = 0.0,
        checkpointing: bool = False,
        gain: float | None = None,
        fine_channels: int | None = None,
        **options: str,
    ) -> None:
        super().__init__()
        if backbone not in ("residual", "swin"):
            raise ValueError(f"there is no backbone {backbone!r}: choose residual or swin")
        if in_channels not in (1, 2):
            raise ValueError(f"in_channels must be 1 (soft-tissue window) or 2 (both windows), not {in_channels}")
        self.spacing, self.patch, self.place = float(spacing), int(patch), float(place)
        self.paint(theta, theta_peak, edge_weight)
        self.look_on(zooms, tight_zooms)
        self.classes, self.options, self.in_channels = class_set(classes), Options(**options), in_channels
        if backbone == "swin":
            self.backbone = SwinPyramid(in_channels, feature_size, checkpointing)
        else:
            self.backbone = ResidualPyramid(in_channels, channels, mask_channels, gain, fine_channels)
        widths, masks = self.backbone.widths, self.backbone.mask_channels
        self.organs, self.tumors = len(self.classes.organs), len(self.classes.tumors)
        self.organ_names = self.classes.organs
        self.whole_scan = ("limits",) if self.options.anomaly_range == "scan" else ()
        self.claimed = self.organs + (self.options.background == "learned")
        self.fundamental = FundamentalQueries(self.claimed, widths, heads)
        width = width or widths[0]
        self.refine = QueryRefine(self.tumors, widths, width, heads)
        self.organ_head, self.anomaly_head = (nn.Linear(widths[-1], masks) for _ in range(2))
        self.tumor_head = nn.Linear(width, masks)
        self.mask_norm = nn.LayerNorm(masks)  # one for organs, anomaly and tumors, as in the paper
        learned = self.options.offset == "learned"
        self.offsets = Offsets(self.organs, self.claimed, self.tumors, masks) if learned else None
        self.align = nn.Sequential(nn.Linear(width, text_dim), nn.LayerNorm(text_dim))
        self.bank = KnowledgeBank(self.classes, text_dim)
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())
        hosted = [self.classes.hosts[t] for t in self.classes.tumors]
        hosts = torch.tensor([[o in h for o in self.classes.organs] for h in hosted])
        self.register_buffer("hosts", hosts, persistent=False)  # (K, N)
        self.register_buffer("stage", torch.tensor(0))  # of training: 1 organs, 2 tumors

    @property
    def temperature(self) -> Tensor:
        """Temperature of the alignment, learned from 0.07; clamped to CLIP's range unless the paper's way is asked for."""
        raw = self.options.similarity == "raw"
        return self.log_temperature.exp() if raw else clamped_temperature(self.log_temperature)

    # ---- what does not depend on the prompt -------------------------------------------------------------------------

    def look(self, image: Tensor) -> tuple[Pyramid, list[Tensor], list[Tensor]]:
        """(B, 2, X, Y, Z) -> maps of the backbone, organ queries Q^f_i and grouping logits of the four levels."""
        check_edges(image, self.backbone.stride)
        pyramid = self.backbone(image[:, -self.in_channels :])
        return pyramid, *self.fundamental(pyramid.encoder)

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """All that is known of an image (B, 2, X, Y, Z) before a prompt.

        Returns:
            mask (B, M, X, Y, Z): what masks are read from; organ_weights (B, N, M [+ 1]); organ_queries (B, N, d_0);
            memory0..3 (B, d_i, x, y, z) and anomaly0..3 (B, 1, x, y, z), coarse to fine; anomaly (B, 1, X, Y, Z): S_full;
            limits (B, 5, 2): minimum and maximum of those five anomaly maps.
        """
        pyramid, queries, _ = self.look(image)
        pairs = zip(self.level_weights(queries), pyramid.decoder, strict=True)
        scores = [anomaly_map(w, m) for w, m in pairs]
        scores.append(self.full_anomaly(queries[-1], pyramid.mask))
        return {
            "mask": pyramid.mask,
            "organ_weights": self.organ_weights(queries[-1]),
            "organ_queries": queries[0],
            "anomaly": scores[-1],
            "limits": torch.stack([value_range(s) for s in scores], 1),
            **{f"memory{i}": m for i, m in enumerate(pyramid.encoder)},
            **{f"anomaly{i}": s for i, s in enumerate(scores[:-1])},
        }

    def full_anomaly(self, queries: Tensor, mask: Tensor) -> Tensor:
        """S_full: Q^f_3 (B, N, d_3) against P (B, M, X, Y, Z) -> (B, 1, X, Y, Z). Not normalized, not detached."""
        weights = self.mask_norm(self.anomaly_head(queries))
        if self.offsets:
            weights = self.offsets.behind(weights + self.offsets.vectors, self.offsets.anomaly)
        return anomaly_map(weights, mask)

    def organ_weights(self, queries: Tensor) -> Tensor:
        """Q^f_3 (B, N, d_3) -> w^f (B, N, M [+ 1])."""
        weights = self.mask_norm(self.organ_head(queries))
        return self.offsets.behind(weights + self.offsets.vectors, self.offsets.organ) if self.offsets else weights

    def level_weights(self, queries: Sequence[Tensor]) -> list[Tensor]:
        """Q^f_i (B, N, d_i) of the levels -> what their maps F_i are multiplied with, (B, N, d_i [+ 1])."""
        # Scaled as in attention, which changes no visual prompt: its map is normalized from minimum to maximum.
        scaled = [q * q.shape[-1] ** -0.5 for q in queries]
        if self.offsets is None:
            return scaled
        return [self.offsets.behind(q, o) for q, o in zip(scaled, self.offsets.levels, strict=True)]

    def shared(self, windows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Limits of the anomaly maps over all windows of a scan, from those of each; see `options.anomaly_range`."""
        if not windows:
            return {}
        limits = torch.stack([w["limits"] for w in windows])
        return {"limits": torch.stack([limits[..., 0].amin(0), limits[..., 1].amax(0)], -1)}

    def organ_logits(self, features: dict[str, Tensor]) -> Tensor:
        """O (B, N, X, Y, Z): one channel an organ of `classes.organs`, corrected where the paper does."""
        logits = masks_of(features["organ_weights"][:, : self.organs], features["mask"])
        return self.corrected(logits, features["anomaly"])

    def place_features(self, image: Tensor) -> Tensor:
        """The decoder's second coarsest map for images (B, 2, X, Y, Z)."""
        return self.look(image)[0].decoder[1]

    def organ_maps(self, features: dict[str, Tensor]) -> Tensor:
        """Probability of no organ and of each organ of `classes.organs`: what is asked for is the most probable.

        No organ is as probable as the background query says; where there is none, one half.
        """
        organs = self.organ_logits(features).sigmoid()
        if self.claimed == self.organs:
            return torch.cat([torch.full_like(organs[:, :1], 0.5), organs], 1)
        background = masks_of(features["organ_weights"][:, self.organs :], features["mask"])
        return torch.cat([background.sigmoid(), organs], 1)

    def corrected(self, logits: Tensor, anomaly: Tensor) -> Tensor:
        """Organ logits (B, >= N, X, Y, Z), the anomaly subtracted once for every tumor that the organ hosts (2.2.6)."""
        if self.options.organ_correction == "none":
            return logits
        times = self.hosts.sum(0).to(logits)
        times = torch.cat([times, times.new_zeros(logits.shape[1] - len(times))])
        return logits - times[None, :, None, None, None] * anomaly

    def refined(self, features: dict[str, Tensor]) -> Tensor:
        """Z (B, N + K, width): organ and tumor queries after the tumor queries have looked at what is anomalous."""
        memory = [features[f"memory{i}"] for i in range(LEVELS)]
        closed = [blocked(features[f"anomaly{i}"], features["limits"][:, i]) for i in range(LEVELS)]
        return self.refine(features["organ_queries"], memory, closed)

    def tumor_weights(self, refined: Tensor) -> Tensor:
        """Z -> w^a (B, K, M [+ 1])."""
        weights = self.mask_norm(self.tumor_head(refined[:, -self.tumors :]))
        return self.offsets.behind(weights, self.offsets.tumor) if self.offsets else weights

    def seen_anomaly(self, anomaly: Tensor, weights: Tensor, mask: Tensor, hosts: Tensor) -> Tensor:
        """What K tumors get of the anomaly (B, 1, X, Y, Z): w^f and P, of which no more than hosts (K, N) is computed.

        Returns:
            (B, K, X, Y, Z): without gradient to the organs, which must not be learned from their tumors.
        """
        if self.options.anomaly_gate == "all":
            return anomaly.expand(-1, len(hosts), -1, -1, -1)
        used = hosts.any(0)
        organs = masks_of(weights[:, : self.organs][:, used].detach(), mask.detach())
        return limit(anomaly, host_gate(organs.sigmoid(), hosts[:, used]))

    # ---- what does --------------------------------------------------------------------------------------------------

    def segment(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        """One channel a prompt from `encode_image`'s answer; `extras["anomaly"]` (B, 1, X, Y, Z) is the map in 0..1.

        Raises:
            prompts.PromptError: a prompt has no slot, where `selection` is "slot".
        """
        weights = self.select(prompts).to(features["mask"])
        queries = torch.einsum("pk,bkm->bpm", weights, self.tumor_weights(self.refined(features)))
        hosts = wanted_hosts(prompts, self.classes).to(queries.device)
        anomaly, mask = features["anomaly"], features["mask"]
        logits = masks_of(queries, mask) + self.seen_anomaly(anomaly, features["organ_weights"], mask, hosts)
        if self.place:
            logits = self.placed(logits, features, hosts)
        threshold = torch.logit(logits.new_tensor([self.theta] * len(prompts)))
        for p, prompt in enumerate(prompts):
            if asks_for_anomaly(prompt):
                logits[:, p], threshold[p] = anomaly[:, 0], 0
        probabilities = logits.sigmoid()
        top = probabilities.flatten(2).topk(min(SCORE_VOXELS, probabilities[0, 0].numel()), dim=2).values
        return Segmentation(
            logits=logits - threshold[None, :, None, None, None],
            scores=top.mean(2),
            attributes=[self.explain(w) for w in weights],
            extras={"ungated": probabilities, "anomaly": normalize(anomaly, features["limits"][:, LEVELS])},
        )

    def placed(self, logits: Tensor, features: dict[str, Tensor], hosts: Tensor) -> Tensor:
        """Logits (B, P, X, Y, Z) of the probabilities, weighed by how well each voxel's place fits hosts (P, N)."""
        known = LazyMasks(features["organ_weights"][:, : self.organs], features["mask"]).every(2).sigmoid()
        fits = F.interpolate(place_match(known, hosts), logits.shape[2:], mode="trilinear") ** self.place
        # log p of what is weighed, and log (1 - p): a sigmoid would round what is nearly certain to 1
        weighed = F.logsigmoid(logits) + fits.clamp_min(1e-4).log()
        return weighed - torch.log1p(-weighed.exp().clamp_max(1 - 1e-7))

    def select(self, prompts: Sequence[Prompt]) -> Tensor:
        """Share of each tumor slot in the answer to each prompt, (P, K)."""
        if self.options.selection == "slot":
            return torch.stack([fixed_slot(p, self.classes, self.bank) for p in prompts])
        return torch.stack([slot_weights(p, self.classes, self.bank, self.encoder) for p in prompts])

    def explain(self, weights: Tensor) -> dict:
        """For the report: the slots that answered, and their shares."""
        order = weights.argsort(descending=True)[:3].tolist()
        return {
            "answered_by": [(self.classes.tumors[k], round(float(weights[k]), 3)) for k in order if weights[k] > 0.01]
        }

    # ---- training ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin(self, stage: int) -> None:
        """Get ready for a stage of training: at the start of the second, the anomaly is what the trained organs leave over.

        Raises:
            ValueError: there is no such stage.
        """
        if stage not in (1, 2):
            raise ValueError(f"training has stages 1 (organs) and 2 (tumors), not {stage}")
        if stage == 2 and int(self.stage) < 2:
            self.anomaly_head.load_state_dict(self.organ_head.state_dict())
            if self.offsets:
                self.offsets.anomaly.copy_(self.offsets.organ)
        self.stage.fill_(stage)

    def groups(self, learning_rate: float, backbone: float = 1.0) -> list[dict]:
        """Parameters for an optimizer: those of the backbone with their rate multiplied, and the organs' vectors."""
        # In their order: a resumed run gives every parameter its own optimizer state back by its place.
        named = [(n, p) for n, p in self.named_parameters() if n != "offsets.vectors"]
        own, rest = ([p for n, p in named if n.startswith("backbone.") is first] for first in (True, False))
        groups = [{"params": own, "lr": learning_rate * backbone}, {"params": rest, "lr": learning_rate}]
        vectors = [{"params": [self.offsets.vectors], "lr": learning_rate * VECTORS}] if self.offsets else []
        return groups + vectors

    def training_outputs(self, image: Tensor, stage: int = 2) -> dict[str, object]:
        """Everything the loss needs; see `criterion.ZeptLoss`.

        Returns:
            organs (B, N [+ background], X, Y, Z): logits (`LazyMasks` unless corrected); responses, grouping: those of four
            levels; in stage 2 also tumors (B, K, X, Y, Z) and aligned (B, N + K, text_dim).
        """
        pyramid, queries, grouping = self.look(image)
        organs = LazyMasks(self.organ_weights(queries[-1]), pyramid.mask)
        responses = [masks_of(w, m) for w, m in zip(self.level_weights(queries), pyramid.decoder, strict=True)]
        if stage == 1:
            return {"organs": organs, "responses": responses, "grouping": grouping}
        scores = [-r.detach().amax(1, keepdim=True) for r in responses]
        closed = [blocked(s, value_range(s)) for s in scores]  # in training, a patch is all there is of a scan
        refined = self.refine(queries[0], pyramid.encoder, closed)
        anomaly = self.full_anomaly(queries[-1], pyramid.mask)
        tumors = masks_of(self.tumor_weights(refined), pyramid.mask)
        known = torch.cat([refined[:, : self.organs], refined[:, -self.tumors :]], 1)  # the background has no paragraph
        corrects = self.options.organ_correction != "none"
        return {
            "organs": self.corrected(organs.every(1), anomaly) if corrects else organs,
            "responses": responses,
            "grouping": grouping,
            "tumors": tumors + self.seen_anomaly(anomaly, organs.queries, pyramid.mask, self.hosts),
            "aligned": self.align(known),
            "knowledge": self.bank(),
            "temperature": self.temperature,
        }

    def forward(
        self,
        image: Tensor,
        prompts: Sequence[Prompt] | None = None,
        targets: object | None = None,
        stage: int = 2,
        organs: bool = False,
    ) -> Tensor | dict[str, object]:
        """(B, 2, X, Y, Z) -> logits (B, P, X, Y, Z); with `targets`, what the training loss needs; with `organs`, theirs."""
        if targets is not None:
            return self.training_outputs(image, stage)
        if organs:
            return self.organ_logits(self.encode_image(image))
        return super().forward(image, prompts)
