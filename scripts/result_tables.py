"""Tables of an evaluation's records, in Markdown: overlap, healthy scans, sizes, organs."""

from __future__ import annotations

from collections.abc import Callable

from evaluate import NO_LESION, groups, median, over_patients

from zerotumor.organs import mean_dice

COLUMNS = {"dice": "Dice", "nsd2": "NSD 2 mm", "auroc": "AUROC", "fpr95": "FPR95", "lesion_f1": "lesion F1"}
GROUPS = {
    ("phantom", "seen"): "phantoms, seen kinds",
    ("phantom", "unseen"): "phantoms, unseen kinds",
    ("real", "unseen"): "real scans (all unseen)",
}
SIZES: dict[str, Callable[[float], bool]] = {
    "under 5 ml": lambda ml: ml < 5,
    "5 to 50 ml": lambda ml: 5 <= ml < 50,
    "50 ml and more": lambda ml: ml >= 50,
}
"""A ball of 5 ml is 21 mm wide, four voxels of a 5 mm grid; one of 50 ml 46 mm."""
SIZES_SAID = "By size: mean Dice, and in brackets in how many of the n lesions any voxel of the lesion was painted."


def interval(records: list[dict], figure: str) -> str:
    """Mean of a figure and its 95 % bootstrap interval over patients."""
    mean, low, high = over_patients(records, figure)
    return "-" if mean != mean else f"{mean:.2f} ({low:.2f} to {high:.2f})"


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def results_table(records: list[dict], wanted: list[tuple[str, str]] | None = None) -> list[str]:
    """Markdown table: a line a method and group of lesions; Dice and the like as mean and interval."""
    lines = [row(["scans", "method", "n", *COLUMNS.values()]), row(["---"] * (3 + len(COLUMNS)))]
    methods = list(dict.fromkeys(r["method"] for r in records))
    for key in wanted or list(groups(records)):
        if key[1] in NO_LESION:
            continue
        for method in methods:
            rows = groups([r for r in records if r["method"] == method]).get(key, [])
            if rows:
                name = GROUPS.get(key, f"{key[0]}: {key[1]}")
                lines.append(row([name, method, str(len(rows)), *(interval(rows, c) for c in COLUMNS)]))
    return lines


def healthy_table(records: list[dict]) -> list[str]:
    """False positives in scans without a lesion: a line a method and set, real CT and MR apart."""
    lines = [
        row(["healthy scans", "method", "prompts asked", "wrongly found", "median FP ml", "mean FP ml"]),
        row(["---"] * 6),
    ]
    sets = (("phantom", ("CT", "MR")), ("real", ("CT",)), ("real", ("MR",)))
    for method in dict.fromkeys(r["method"] for r in records):
        for set_, modalities in sets:
            rows = [r for r in records if (r["method"], r["set"], r["split"]) == (method, set_, "healthy")]
            rows = [r for r in rows if r["modality"] in modalities]
            if rows:
                ml = [r["fp_ml"] for r in rows]
                found = sum(v > 0 for v in ml)
                name = " ".join([set_, *(modalities if len(modalities) == 1 else ())])
                cells = [name, method, str(len(rows)), str(found), f"{median(ml):.1f}", f"{sum(ml) / len(ml):.1f}"]
                lines.append(row(cells))
    return lines


def words_table(records: list[dict]) -> list[str]:
    """The same lesions by their own name and by that of a tumor elsewhere: a line a set and method; nothing if not asked."""
    own = {(r["method"], r["case"], r["category"]): r for r in records if r["split"] not in NO_LESION}
    lines = [row(["lesions", "method", "n", *(f"{who}: {what}" for who in ("own name", "another organ's")
                                               for what in ("found in", "mean ml"))]), row(["---"] * 7)]  # fmt: skip
    asked = [r for r in records if r["split"] == "elsewhere"]
    for method in dict.fromkeys(r["method"] for r in asked):
        pairs = [(own.get((method, r["case"], r["category"])), r) for r in asked if r["method"] == method]
        for set_ in ("phantom", "real"):
            of_set = [pair for pair in pairs if pair[0] and pair[0]["set"] == set_]
            if of_set:
                ml = [[r["volume_ml"] for r in side] for side in zip(*of_set, strict=True)]
                cells = [c for side in ml for c in (str(sum(v > 0 for v in side)), f"{sum(side) / len(side):.1f}")]
                lines.append(row([set_, method, str(len(of_set)), *cells]))
    return lines if len(lines) > 2 else []


def sizes_table(records: list[dict]) -> list[str]:
    """Mean Dice by the size of the lesion: a line a set and size, a column a method; nothing where sizes are not known."""
    lesions = [r for r in records if r["dice"] is not None and ":" not in r["method"]]
    if not lesions or any("truth_ml" not in r for r in lesions):
        return []
    methods = list(dict.fromkeys(r["method"] for r in lesions))
    lines = [row(["lesions", "n", *methods]), row(["---"] * (2 + len(methods)))]
    for set_ in dict.fromkeys(r["set"] for r in lesions):
        for name, holds in SIZES.items():
            rows = [r for r in lesions if r["set"] == set_ and holds(r["truth_ml"])]
            if rows:
                own = [[r["dice"] for r in rows if r["method"] == method] for method in methods]
                cells = [f"{sum(d) / len(d):.2f} ({sum(v > 0 for v in d)})" if d else "-" for d in own]
                lines.append(row([f"{set_}, {name}", str(max(len(d) for d in own)), *cells]))
    return lines


def organs_table(records: list[dict]) -> list[str]:
    """Mean Dice of every organ, a line an organ and a column a set and method; the mean over organs last."""
    keys = list(dict.fromkeys((r["set"], r["method"]) for r in records))
    means = {k: mean_dice([r for r in records if (r["set"], r["method"]) == k]) for k in keys}
    lines = [row(["organ", *(f"{set_}: {method}" for set_, method in keys)]), row(["---"] * (1 + len(keys)))]
    for organ in dict.fromkeys(r["organ"] for r in records):
        lines.append(row([organ, *(f"{m[organ]:.2f}" if organ in m else "-" for m in means.values())]))
    lines.append(row(["**mean of organs**", *(f"**{sum(m.values()) / len(m):.2f}**" for m in means.values())]))
    return lines


def organs_section(records: list[dict], title: str) -> list[str]:
    """The table of organs under a title, or nothing where they were not measured."""
    if not records:
        return []
    return [
        title,
        "",
        "Written from the records of `scripts/evaluate_organs.py`. Mean Dice over the scans that show at least 0.5 ml of",
        "the organ: the test phantoms, and healthy scans whose organ maps are TotalSegmentator's answers, not a human's.",
        "",
        *organs_table(records),
        "",
    ]
