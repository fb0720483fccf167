"""The table of lesion categories, and how often each attribute value occurs in each kind.

Rows of `COUNTS` are numbers of lesions in the published annotations of Malenia (MIT licence; 431 lesions of seven
kinds), as `scripts/lesion_attributes.py` prints them from the spreadsheet. Rows of `KNOWLEDGE` are percentages from
general radiology knowledge: nobody counted them. Special features are in no column of the spreadsheet, so they are from
radiology knowledge throughout.
"""

from __future__ import annotations

_NAMES = (
    ("shape", ("round-like", "irregular")),
    ("density", ("hypodense", "isodense", "hyperdense", "mixed")),
    ("density_variation", ("homogeneous", "heterogeneous")),
    ("enhancement", ("non-contrast", "contrast-enhanced")),
    ("surface", ("well-defined", "ill-defined")),
    ("relation", ("not-close", "close")),
    ("specific", ("none", "necrosis", "calcification", "rim")),
)

# shape | density | variation | enhancement | surface | relation
COUNTS = {
    "renal cancer": ((30, 132), (46, 44, 72, 0), (7, 155), (0, 162), (2, 160), (118, 44)),
    "renal cyst": ((57, 10), (67, 0, 0, 0), (66, 1), (0, 66), (57, 10), (59, 8)),
    "liver cancer": ((10, 31), (38, 1, 2, 0), (5, 36), (1, 40), (7, 34), (39, 2)),
    "pancreatic cancer": ((0, 37), (23, 14, 0, 0), (0, 37), (0, 37), (0, 37), (3, 34)),
    "pancreatic cyst": ((56, 2), (59, 0, 0, 0), (56, 3), (0, 59), (56, 3), (49, 10)),
    "colorectal cancer": ((0, 43), (2, 10, 31, 0), (0, 43), (0, 42), (0, 43), (37, 5)),
    "lung cancer": ((1, 21), (0, 16, 0, 6), (1, 21), (12, 10), (1, 21), (1, 21)),
}
# none, necrosis, calcification, rim, in per cent
SPECIFIC = {
    "renal cancer": (40, 40, 10, 10),
    "renal cyst": (90, 0, 8, 2),
    "liver cancer": (45, 25, 5, 25),
    "pancreatic cancer": (75, 20, 3, 2),
    "pancreatic cyst": (85, 0, 8, 7),
    "colorectal cancer": (75, 15, 5, 5),
    "lung cancer": (55, 30, 5, 10),
}
# the same columns and special features, in per cent
KNOWLEDGE = {
    "simple cyst": ((90, 10), (98, 1, 1, 0), (95, 5), (40, 60), (92, 8), (85, 15), (88, 0, 7, 5)),
    "benign solid": ((80, 20), (45, 25, 20, 10), (60, 40), (40, 60), (85, 15), (80, 20), (75, 5, 15, 5)),
    "hemangioma": ((75, 25), (65, 5, 30, 0), (45, 55), (30, 70), (80, 20), (90, 10), (45, 5, 5, 45)),
    "fatty": ((75, 25), (75, 3, 7, 15), (70, 30), (50, 50), (85, 15), (75, 25), (95, 2, 3, 0)),
    "metastasis": ((55, 45), (75, 12, 8, 5), (25, 75), (25, 75), (45, 55), (75, 25), (40, 25, 5, 30)),
    "carcinoma": ((20, 80), (50, 30, 10, 10), (10, 90), (30, 70), (15, 85), (40, 60), (55, 30, 5, 10)),
    "vascular": ((35, 65), (75, 15, 10, 0), (20, 80), (15, 85), (30, 70), (45, 55), (55, 25, 5, 15)),
    "wall": ((5, 95), (20, 50, 30, 0), (20, 80), (30, 70), (15, 85), (45, 55), (75, 15, 5, 5)),
    "sarcoma": ((45, 55), (55, 25, 10, 10), (15, 85), (70, 30), (55, 45), (35, 65), (45, 40, 5, 10)),
    "glioma": ((25, 75), (45, 10, 25, 20), (5, 95), (40, 60), (15, 85), (55, 45), (20, 40, 5, 35)),
    "meningioma": ((80, 20), (10, 25, 60, 5), (75, 25), (30, 70), (92, 8), (30, 70), (65, 5, 25, 5)),
    "neuroendocrine": ((75, 25), (15, 20, 60, 5), (60, 40), (10, 90), (80, 20), (75, 25), (70, 10, 10, 10)),
    "bone": ((35, 65), (55, 5, 25, 15), (25, 75), (70, 30), (45, 55), (45, 55), (55, 20, 20, 5)),
    "node": ((75, 25), (30, 55, 10, 5), (50, 50), (30, 70), (65, 35), (60, 40), (60, 25, 5, 10)),
    "gland": ((45, 55), (50, 20, 25, 5), (35, 65), (45, 55), (40, 60), (60, 40), (70, 10, 15, 5)),
    "anything": ((50, 50), (40, 20, 35, 5), (45, 55), (50, 50), (55, 45), (70, 30), (55, 20, 8, 17)),
}


def _share(values: tuple[str, ...], counts: tuple[int, ...]) -> dict[str, float]:
    return {value: round(n / sum(counts), 4) for value, n in zip(values, counts, strict=True) if n}


def _distribution(columns: tuple[tuple[int, ...], ...]) -> dict[str, dict[str, float]]:
    return {name: _share(values, counts) for (name, values), counts in zip(_NAMES, columns, strict=True)}


DISTRIBUTIONS: dict[str, tuple[dict[str, dict[str, float]], str]] = {
    **{k: (_distribution((*v, SPECIFIC[k])), "annotations") for k, v in COUNTS.items()},
    **{k: (_distribution(v), "radiology knowledge") for k, v in KNOWLEDGE.items()},
}

# name | synonyms | host organs | modalities | flags | kind
_KIDNEYS = "left kidney, right kidney"
_LUNGS = "left lung, right lung"
_ADRENALS = "left adrenal gland, right adrenal gland"
ROWS: list[tuple[str, str, str, str, str, str]] = [
    ("liver tumor", "hepatic tumor, liver cancer, hepatic cancer, hepatocellular carcinoma, hcc, intrahepatic cholangiocarcinoma, cholangiocarcinoma, liver carcinoma, hepatic mass, liver mass, liver malignancy, hepatoma, hepatic carcinoma, hepatoblastoma, hepatic malignancy", "liver", "CT MR", "seen", "liver cancer"),
    ("kidney tumor", "renal tumor, kidney cancer, renal cancer, renal cell carcinoma, rcc, renal mass, kidney mass, renal carcinoma, hypernephroma, kidney carcinoma, oncocytoma, wilms tumor, nephroblastoma", _KIDNEYS, "CT MR", "seen", "renal cancer"),
    ("kidney cyst", "renal cyst, renal cortical cyst, bosniak cyst", _KIDNEYS, "CT MR", "seen benign", "renal cyst"),
    ("pancreatic tumor", "pancreas tumor, pancreatic cancer, pancreas cancer, pancreatic adenocarcinoma, pancreatic ductal adenocarcinoma, pdac, pancreatic mass, pancreatic carcinoma, pancreas carcinoma, pancreas mass", "pancreas", "CT MR", "", "pancreatic cancer"),
    ("pancreatic cyst", "pancreas cyst, ipmn, intraductal papillary mucinous neoplasm, mucinous cystic neoplasm, serous cystadenoma, pancreatic pseudocyst, cystic pancreatic lesion", "pancreas", "CT MR", "benign", "pancreatic cyst"),
    ("pancreatic neuroendocrine tumor", "pnet, neuroendocrine tumor of the pancreas, insulinoma", "pancreas", "CT MR", "", "neuroendocrine"),
    ("lung tumor", "lung cancer, pulmonary tumor, lung carcinoma, bronchogenic carcinoma, non-small cell lung cancer, nsclc, small cell lung cancer, sclc, lung adenocarcinoma, lung mass, pulmonary mass, lung malignancy", _LUNGS, "CT", "", "lung cancer"),
    ("lung nodule", "pulmonary nodule, lung metastasis, pulmonary metastasis", _LUNGS, "CT", "", "node"),
    ("colon tumor", "colon cancer, colorectal cancer, colonic carcinoma, colorectal tumor, colon carcinoma, colonic mass, bowel cancer, colorectal carcinoma, colonic tumor, sigmoid cancer, bowel tumor", "colon", "CT MR", "", "colorectal cancer"),
    ("rectal tumor", "rectal cancer, rectum tumor, rectal carcinoma", "rectum", "CT MR", "", "wall"),
    ("hepatic vessel tumor", "portal vein tumor thrombus, portal vein tumor, hepatic vein tumor thrombus, tumor thrombus, hepatic vascular tumor", "liver, hepatic vessels", "CT MR", "", "vascular"),
    ("liver cyst", "hepatic cyst, biliary cyst", "liver", "CT MR", "benign", "simple cyst"),
    ("liver hemangioma", "hepatic hemangioma, cavernous hemangioma", "liver", "CT MR", "benign", "hemangioma"),
    ("liver metastasis", "hepatic metastasis, colorectal liver metastasis, crlm", "liver", "CT MR", "", "metastasis"),
    ("spleen tumor", "splenic tumor, splenic lymphoma, splenic mass, spleen mass", "spleen", "CT MR", "", "metastasis"),
    ("splenic cyst", "spleen cyst", "spleen", "CT MR", "benign", "simple cyst"),
    ("adrenal tumor", "adrenal mass, adrenal cancer, adrenal carcinoma, pheochromocytoma, neuroblastoma, adrenal metastasis, adrenocortical carcinoma", _ADRENALS, "CT MR", "", "carcinoma"),
    ("adrenal adenoma", "adrenocortical adenoma", _ADRENALS, "CT MR", "benign", "benign solid"),
    ("gastric tumor", "stomach tumor, gastric cancer, stomach cancer, gastric carcinoma, gist, gastrointestinal stromal tumor", "stomach", "CT MR", "", "wall"),
    ("esophageal tumor", "esophageal cancer, esophagus cancer, esophagus tumor, esophageal carcinoma, esophageal mass", "esophagus", "CT MR", "", "wall"),
    ("small bowel tumor", "duodenal tumor, small intestine tumor, carcinoid", "small bowel", "CT MR", "", "wall"),
    ("bladder tumor", "bladder cancer, urothelial carcinoma, bladder carcinoma, bladder mass, transitional cell carcinoma, tcc", "bladder", "CT MR", "", "wall"),
    ("gallbladder tumor", "gallbladder cancer, gallbladder carcinoma", "gallbladder", "CT MR", "", "wall"),
    ("ovarian tumor", "ovarian cancer, ovary tumor, ovarian carcinoma, adnexal mass", "ovary", "CT MR", "", "carcinoma"),
    ("ovarian cyst", "ovary cyst, adnexal cyst", "ovary", "CT MR", "benign", "simple cyst"),
    ("uterine fibroid", "uterine leiomyoma, fibroid, leiomyoma, myoma", "uterus", "CT MR", "benign", "benign solid"),
    ("uterine tumor", "endometrial cancer, cervical cancer, uterine cancer", "uterus", "CT MR", "", "carcinoma"),
    ("prostate tumor", "prostate cancer, prostatic carcinoma, prostate carcinoma, prostatic adenocarcinoma, prostatic tumor", "prostate", "MR CT", "", "gland"),
    ("bone tumor", "osteosarcoma, bone metastasis, bone cancer, osseous metastasis, osseous tumor, ewing sarcoma, chondrosarcoma, giant cell tumor of bone, plasmacytoma, multiple myeloma", "bone", "CT MR", "", "bone"),
    ("soft tissue sarcoma", "sarcoma, liposarcoma, leiomyosarcoma, rhabdomyosarcoma, fibrosarcoma, myxofibrosarcoma, angiosarcoma, synovial sarcoma, soft tissue tumor, soft tissue mass, undifferentiated pleomorphic sarcoma", "muscle, fat", "CT MR", "", "sarcoma"),
    ("lipoma", "fatty tumor, lipomatous tumor", "muscle, fat", "CT MR", "benign", "fatty"),
    ("lymph node metastasis", "nodal metastasis, metastatic lymph node, enlarged lymph node, lymphadenopathy, pathologic lymph node, lymphoma, lymph node tumor", "lymph node, mediastinum", "CT MR", "", "node"),
    ("mediastinal mass", "mediastinal tumor, thymoma, germ cell tumor", "mediastinum", "CT MR", "", "carcinoma"),
    ("brain tumor", "glioma, glioblastoma, gbm, glioblastoma multiforme, astrocytoma, intracranial tumor, cerebral tumor, brain cancer, oligodendroglioma, ependymoma, medulloblastoma, brain mass", "brain", "MR CT", "", "glioma"),
    ("meningioma", "dural tumor", "brain", "MR CT", "benign", "meningioma"),
    ("brain metastasis", "cerebral metastasis, intracranial metastasis", "brain", "MR CT", "", "metastasis"),
    ("breast tumor", "breast cancer, breast carcinoma, mammary carcinoma, mammary tumor, breast mass", "breast", "MR CT", "", "carcinoma"),
    ("breast cyst", "mammary cyst", "breast", "MR CT", "benign", "simple cyst"),
    ("thyroid nodule", "thyroid tumor, thyroid cancer, thyroid carcinoma, goiter", "thyroid", "CT MR", "benign", "gland"),
    ("angiomyolipoma", "renal angiomyolipoma, aml", _KIDNEYS, "CT MR", "benign", "fatty"),
    ("cardiac tumor", "cardiac mass, heart tumor, myxoma", "heart", "CT MR", "", "benign solid"),
    ("abstract lesion", "", "abstract", "CT MR", "seen", "anything"),
]  # fmt: skip
