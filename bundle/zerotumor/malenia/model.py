"""Malenia: zero-shot lesion segmentation by aligning mask tokens with lesion attributes (Jiang et al., ICLR 2025).

image -> backbone -> N tokens through three blocks -> attributes retrieved from the text bank -> knowledge injection
-> two masks a token -> a prompt picks the tokens whose attributes and place fit its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import masks_of
from ..backbone import ResidualBackbone, coordinates
from ..contrast import clamped_temperature
from ..lesion_network import LesionNetwork
from ..prompts import Prompt
from ..segmenter import Segmentation, Segmenter
from ..vocabulary import ORGANS
from .attributes import NAMES, SLICES, AttributeBank
from .decoder import Decoded, TokenDecoder
from .injection import KnowledgeInjection, ensemble
from .knowledge import describe, prompt_scores
from .location import Locator, region_average


@dataclass
class Targets:
    """Ground truth of one batch; B samples with K_b lesions each."""

    masks: list[Tensor]  # B x (K_b, X, Y, Z) float in 0..1
    values: list[Tensor]  # B x (K_b, 8) long: bank index of each attribute, -1 unknown
    organs: Tensor  # (B, X, Y, Z) long: 0 none, else 1 + location index


@dataclass
class Retrieved:
    """Attribute probabilities of tokens, (B, N, V), a softmax within each attribute."""

    probabilities: Tensor

    @property
    def argmax_values(self) -> Tensor:
        """Most probable value of each attribute as bank index, (B, N, 8)."""
        best = [self.probabilities[..., SLICES[n]].argmax(-1) + SLICES[n].start for n in NAMES]
        return torch.stack(best, -1)


class Malenia(Segmenter):
    """The method, whole; see `bundle/docs/methods.md` for the paper's equation behind each part.

    Args:
        channels, mask_channels, gain, fine_channels: of the backbone. dim: C. tokens: N. heads: attention heads.
        fusion_depth: layers of knowledge injection. text_dim: width of the text encoder. spacing: mm of the grid the network
        works on. patch: edge of the training patch and the inference window, in voxels. theta: probability from which a
        voxel is painted. theta_peak, edge_weight, zooms, tight_zooms: see `Segmenter`.
    """

    organ_names = tuple(ORGANS)

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        mask_channels: int = 8,
        dim: int = 64,
        tokens: int = 8,
        heads: int = 4,
        fusion_depth: int = 3,
        text_dim: int = 384,
        spacing: float = 3.0,
        patch: int = 64,
        theta: float = 0.3,
        theta_peak: float = 0.0,
        edge_weight: float = 0.0,
        zooms: Sequence[float] = (1.0,),
        tight_zooms: Sequence[float] | None = None,
        gain: float | None = None,
        fine_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.spacing, self.patch = float(spacing), int(patch)
        self.paint(theta, theta_peak, edge_weight)
        self.look_on(zooms, tight_zooms)
        self.backbone = ResidualBackbone(2, channels, mask_channels, gain, fine_channels)
        widths = self.backbone.feature_channels
        self.bank = AttributeBank(text_dim, dim)
        self.decoder = TokenDecoder(widths, dim, tokens, heads)
        self.align = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.objectness = nn.Linear(dim + 1, 1)
        self.locator = Locator(widths["f3"], dim)
        self.injection = KnowledgeInjection(dim, mask_channels + 7, len(NAMES), fusion_depth, heads)
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())

    @property
    def temperature(self) -> Tensor:
        """Temperature of the alignment, learned from 0.07 and kept in CLIP's range."""
        return clamped_temperature(self.log_temperature)

    # ---- what does not depend on the prompt -------------------------------------------------------------------------

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """All that the tokens know of an image (B, 2, X, Y, Z), edges multiples of 16.

        Returns:
            masks (B, N, X, Y, Z): ensembled mask logits; objectness (B, N): 0..1; values (B, N, V): retrieved attribute
            probabilities; aligned (B, N, C): tokens in text space; inside, around (B, N, 1 + L): location
            probabilities of each token's region and its surroundings; prior (B, 1, X, Y, Z): lesion prior logits;
            location (B, 1 + L, x, y, z) at stride 2.
        """
        features = self.backbone(image)
        decoded = self.decoder(features)
        located = self.located(features)
        retrieved, inside, around = self.retrieve(decoded, located)
        queries = self.injection(decoded.tokens[-1], self.texts_of(retrieved.argmax_values))
        return {
            "masks": ensemble(*(self.draw(q, self.canvas(features, decoded)) for q in queries)),
            "objectness": self.rate(decoded).sigmoid(),
            "values": retrieved.probabilities,
            "aligned": self.align(decoded.tokens[-1]),
            "inside": inside,
            "around": around,
            "prior": decoded.prior[-1],
            "location": located.softmax(1),
        }

    def located(self, features: dict[str, Tensor]) -> Tensor:
        """Location logits (B, 1 + L, x, y, z) at stride 2, from the backbone's maps."""
        return self.locator(features["f3"], self.bank()[SLICES["location"]])

    @staticmethod
    def canvas(features: dict[str, Tensor], decoded: Decoded) -> Tensor:
        """What masks are read from, (B, mask_channels + 7, X, Y, Z): f4, coordinates, and the lesion prior's logit."""
        f4 = features["f4"]
        return torch.cat([f4, coordinates(f4), decoded.prior[-1].detach()], 1)

    @staticmethod
    def draw(queries: Tensor, canvas: Tensor) -> Tensor:
        """Mask logits of queries (B, N, mask_channels + 7) on the canvas -> (B, N, X, Y, Z)."""
        return masks_of(queries, canvas)

    def rate(self, decoded: Decoded) -> Tensor:
        """Logit that a token is a lesion, (B, N): from the token, and the lesion prior's mean inside its mask."""
        prior, masks = decoded.prior[2].detach(), decoded.masks[-1].detach().sigmoid()
        evidence = (prior * masks).flatten(2).sum(-1) / masks.flatten(2).sum(-1).clamp_min(1e-3)
        return self.objectness(torch.cat([decoded.tokens[-1], evidence[..., None]], -1))[..., 0]

    def retrieve(self, decoded: Decoded, located: Tensor) -> tuple[Retrieved, Tensor, Tensor]:
        """Attributes of every token from the bank (3.7, step II), the mean of the three scales; location from the map.

        `located` (B, 1 + L, x, y, z) are location logits at stride 2.
        """
        probabilities = torch.stack([self.bank.retrieve(self.align(t), self.temperature) for t in decoded.tokens])
        probabilities = probabilities.mean(0)
        inside, around = region_average(located.softmax(1).detach(), self.claimed(decoded))
        place = torch.maximum(inside, around)[..., 1:]
        place = place / place.sum(-1, keepdim=True).clamp_min(1e-6)
        probabilities = torch.cat([place, probabilities[..., place.shape[-1] :]], -1)
        return Retrieved(probabilities), inside, around

    @staticmethod
    def claimed(decoded: Decoded) -> Tensor:
        """Voxels of each token that are lesion at all, (B, N, x, y, z) in 0..1 at stride 2.

        A mask that is 0.01 all around holds more of a window outside a small lesion than in it; the prior is darker there.
        """
        return (decoded.masks[-1].sigmoid() * decoded.prior[2].sigmoid()).detach()

    def texts_of(self, values: Tensor) -> Tensor:
        """Projected texts of bank indices (..., 8) -> (..., 8, C)."""
        return self.bank()[values]

    # ---- what does --------------------------------------------------------------------------------------------------

    def segment(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        """One channel a prompt from `encode_image`'s answer.

        A voxel's probability is that of being lesion at all (the dense prior), times the best that a token which covers it
        can say for the prompt (is it a lesion, do its attributes and place fit the words). Its logit is counted from theta.
        The best and not the sum: several tokens may draw the same lesion, as they do.
        """
        scores = prompt_scores(self, features, prompts)  # (B, N, P)
        masks = features["masks"].float().sigmoid()
        fit = torch.stack([(masks * s[..., None, None, None]).amax(1) for s in scores.float().unbind(-1)], 1)
        probabilities = features["prior"].float().sigmoid() * fit
        threshold = torch.logit(scores.new_tensor(self.theta, dtype=torch.float32))
        return Segmentation(
            logits=torch.logit(probabilities, eps=1e-6) - threshold,
            scores=probabilities.flatten(2).amax(-1),
            attributes=describe(features["values"], scores),
            extras={"token_scores": scores},
        )

    def lesion_network(self) -> LesionNetwork:
        """The backbone and the lesion prior, which reads no words."""
        return LesionNetwork(deepcopy(self.backbone), deepcopy(self.decoder.prior), like=self)

    def place_features(self, image: Tensor) -> Tensor:
        """The backbone's f1, stride 8, for images (B, 2, X, Y, Z)."""
        return self.backbone(image)["f1"]

    def organ_maps(self, features: dict[str, Tensor]) -> Tensor:
        """Probability of each place of the location map, brought from stride 2 to the image's grid."""
        size = features["prior"].shape[2:]
        return F.interpolate(features["location"].float(), size, mode="trilinear")

    # ---- training ---------------------------------------------------------------------------------------------------

    def dense_outputs(self, image: Tensor) -> dict[str, object]:
        """What needs no token: the lesion prior at four scales and the location logits. Half the time of a whole step."""
        return self.dense_of(self.backbone(image))

    def dense_of(self, features: dict[str, Tensor]) -> dict[str, object]:
        """`dense_outputs`, from the backbone's maps."""
        return {"prior": self.decoder.priors(features), "located": self.located(features)}

    def training_outputs(self, image: Tensor, targets: Targets, teacher: float = 0.5) -> dict[str, object]:
        """Everything the loss needs; see `criterion.MaleniaLoss`.

        Args:
            image: (B, 2, X, Y, Z). teacher: probability with which a matched token is given its lesion's true texts
                and not the retrieved ones (scheduled sampling: at test time there are only the retrieved).
        """
        from .criterion import match_batch

        features = self.backbone(image)
        decoded = self.decoder(features)
        located = self.located(features)
        retrieved, _, _ = self.retrieve(decoded, located)
        objectness = self.rate(decoded)
        pairs = match_batch(self, decoded, objectness, targets)
        values = retrieved.argmax_values.clone()
        for b, (tokens, lesions) in enumerate(pairs):
            truth = targets.values[b][lesions]
            told = (torch.rand(len(tokens), 1, device=image.device) < teacher) & (truth >= 0)
            values[b, tokens] = torch.where(told, truth, values[b, tokens])
        q_mask, q_text = self.injection(decoded.tokens[-1], self.texts_of(values))
        return {
            "decoded": decoded,
            "prior": decoded.prior,
            "located": located,
            "objectness": objectness,
            "pairs": pairs,
            "aligned": [self.align(t) for t in decoded.tokens],
            "bank": self.bank(),
            "temperature": self.temperature,
            # Only matched tokens are drawn at full resolution: the others have no mask loss.
            "drawn": [
                (self.draw(q_mask[b : b + 1, t], one[None])[0], self.draw(q_text[b : b + 1, t], one[None])[0])
                for b, ((t, _), one) in enumerate(zip(pairs, self.canvas(features, decoded), strict=True))
            ],
        }

    def forward(
        self,
        image: Tensor,
        prompts: Sequence[Prompt] | None = None,
        targets: Targets | None = None,
        dense: bool = False,
    ) -> Tensor | dict[str, object]:
        """(B, 2, X, Y, Z) -> logits (B, P, X, Y, Z); with `targets`, what the training loss needs.

        `dense` leaves the tokens out (the first stage of training): the answer is the lesion prior (B, 1, X, Y, Z).
        """
        if dense:
            outputs = self.dense_outputs(image)
            return outputs["prior"][-1] if targets is None else outputs
        if targets is not None:
            return self.training_outputs(image, targets)
        return super().forward(image, prompts)
