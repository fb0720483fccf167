"""SNOMED CT codes for DICOM objects: where a lesion lies and what kind of finding it is. No torch here.

Codes and meanings are those of the DICOM standard's context groups (CID 4 and 6122 for anatomy, 7150 for categories,
7194 for types of finding, 244 for sides). A code is better left out than wrong: no entry, no claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .vocabulary import LESIONS


@dataclass(frozen=True)
class Concept:
    """A coded concept: value and meaning in a coding scheme (SCT: SNOMED CT, DCM: DICOM's own)."""

    value: str
    meaning: str
    scheme: str = "SCT"


LEFT, RIGHT = Concept("7771000", "Left"), Concept("24028007", "Right")
_KIDNEY, _LUNG = Concept("64033007", "Kidney"), Concept("39607008", "Lung")
_ADRENAL = Concept("23451007", "Adrenal gland")
_LIVER = Concept("10200004", "Liver")

ANATOMY: dict[str, Concept] = {  # every organ of vocabulary.ORGANS that is real anatomy; sides are told apart below
    "liver": _LIVER,
    "left kidney": _KIDNEY,
    "right kidney": _KIDNEY,
    "spleen": Concept("78961009", "Spleen"),
    "pancreas": Concept("15776009", "Pancreas"),
    "stomach": Concept("69695003", "Stomach"),
    "esophagus": Concept("32849002", "Esophagus"),
    "gallbladder": Concept("28231008", "Gallbladder"),
    "left adrenal gland": _ADRENAL,
    "right adrenal gland": _ADRENAL,
    "colon": Concept("71854001", "Colon"),
    "small bowel": Concept("30315005", "Small intestine"),
    "left lung": _LUNG,
    "right lung": _LUNG,
    "heart": Concept("80891009", "Heart"),
    "aorta": Concept("15825003", "Aorta"),
    "inferior vena cava": Concept("64131007", "Inferior Vena Cava"),
    "hepatic vessels": _LIVER,  # the context groups know single vessels only; the region that these lie in is the liver
    "bladder": Concept("89837001", "Bladder"),
    "prostate": Concept("41216001", "Prostate"),
    "uterus": Concept("35039007", "Uterus"),
    "ovary": Concept("15497006", "Ovary"),
    "bone": Concept("272673000", "Bone"),
    "muscle": Concept("71616004", "Muscle"),
    "fat": Concept("248300009", "Body fat"),
    "brain": Concept("12738006", "Brain"),
    "breast": Concept("76752008", "Breast"),
    "lymph node": Concept("59441001", "Lymph node"),
    "rectum": Concept("34402009", "Rectum"),
    "thyroid": Concept("69748006", "Thyroid"),
    "mediastinum": Concept("72410000", "Mediastinum"),
}
_TOGETHER: dict[frozenset[str], Concept] = {  # one region for lesions that several organs host
    frozenset(("muscle", "fat")): Concept("87784001", "Soft tissue"),
    frozenset(("lymph node", "mediastinum")): ANATOMY["lymph node"],
}

ABNORMAL = Concept("49755003", "Morphologically Abnormal Structure")
NEOPLASM, SECONDARY = Concept("108369006", "Neoplasm"), Concept("14799000", "Neoplasm, Secondary")
CYST, NODULE, MASS = Concept("367643001", "Cyst"), Concept("27925004", "Nodule"), Concept("4147007", "Mass")
LESION = Concept("52988006", "Lesion")
_KINDS = (("cyst", CYST), ("metastasis", SECONDARY), ("nodule", NODULE), ("mass", MASS))
ARTIFICIAL_INTELLIGENCE = Concept("123110", "Artificial Intelligence", "DCM")


def region_of(organs: Sequence[str]) -> tuple[Concept, Concept | None] | None:
    """Anatomic region of a prompt's organs and its side; None where no single code covers all of them."""
    found = {ANATOMY.get(organ) for organ in organs}
    region = _TOGETHER.get(frozenset(organs)) or (found.pop() if len(found) == 1 else None)
    if region is None:
        return None
    sides = {(organ.split() or [""])[0] for organ in organs}
    side = {"left": LEFT, "right": RIGHT}.get(sides.pop()) if len(sides) == 1 else None
    return region, side


def finding_of(concept: str) -> Concept:
    """Type of finding for a category of the vocabulary; "Lesion", which claims nothing more, for any other text."""
    if concept not in LESIONS:
        return LESION
    words = concept.split()
    return next((code for word, code in _KINDS if word in words), NEOPLASM)
