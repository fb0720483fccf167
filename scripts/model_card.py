"""Write model cards, the results and the README's cut of them from an evaluation's records. No number is typed.

python scripts/evaluate.py --method malenia+zept,malenia,zept,outlier,everything --set all --out out/evaluation.json
python scripts/evaluate_organs.py --method malenia,zept --out out/organs.json
python scripts/model_card.py out/evaluation.json --organs out/organs.json

Every method among the records gets a card: model_card.md is Malenia's, model_card_zept.md ZePT's. The records are kept
beside the pages (records.json), so that a method can be measured alone, and on one set alone:
what is known of others stays while their weights do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

import typer
from evaluate import groups, median
from result_tables import (
    GROUPS,
    SIZES_SAID,
    healthy_table,
    organs_section,
    results_table,
    sizes_table,
    words_table,
)
from rich.console import Console

from zerotumor.baselines import BASELINES
from zerotumor.in_turn import IN_TURN
from zerotumor.segmenter import METHODS, OPPONENTS, WeightsError, asked_in_turn
from zerotumor.trained_on import KINDS
from zerotumor.vocabulary import LESIONS, lesions
from zerotumor.volumes import write_atomically

console = Console()
NOTHING = {"weights_sha256": {}, "records": []}
SHOWN = 20
"""Names in a list of a card."""
DEFAULT = next(iter(METHODS))
"""The method whose card is the bundle's."""
FURTHER = {
    "closed_set": "`closed_set` is Malenia's backbone and lesion prior, trained further on Malenia's samples with all "
    "lesions as one class, on Malenia's grids and along edges; it does not read the prompt.",
    "ensemble": "`ensemble` is the mean of the probabilities of all methods that have weights.",
    IN_TURN: f"`{IN_TURN}` takes what the first method finds at places that the second sees, with some say of it, and asks "
    "the second for what the first has not found; it is what `scripts/segment.py` does unless told otherwise.",
}
"""What the results say of further baselines, where they were measured."""


def healthy_section(records: list[dict], trained: dict[str, dict]) -> list[str]:
    """The table of healthy scans, and for which methods part of it is no test.

    Args:
        trained: method -> what the record of its weights says of their training.
    """
    cases = {r["case"] for r in records if (r["set"], r["split"]) == ("real", "healthy")}
    asked = {m: asked_in_turn(m) for m in dict.fromkeys(r["method"] for r in records)}
    seen = {m: [{case for one in ones for case in trained.get(one, {}).get(kind, ())} for kind in KINDS]
            for m, ones in asked.items()}  # fmt: skip
    known = {m: [cases & scans for scans in kinds] for m, kinds in seen.items()}
    learned = [m for m, found in known.items() if any(found)]
    organs = ", with its organs," if all(known[m][0] for m in learned) else ""
    note = (
        f"The healthy CT was in the training of {' and '.join(learned)}{organs or ','} so for these real CT is no test; "
        "MR is another patient's."
    )
    return [*healthy_table(records), *(["", note] if learned else [])]


def trainings(models: Path) -> dict[str, dict]:
    """Method or opponent -> what the record of its weights says of their training, of those that have weights."""
    files = {name: (models / m.weights).with_suffix(".json") for name, m in {**METHODS, **OPPONENTS}.items()}
    return {name: json.loads(file.read_text()).get("trained", {}) for name, file in files.items() if file.is_file()}


def sizes_section(records: list[dict]) -> list[str]:
    """The table of sizes under a title, or nothing."""
    table = sizes_table(records)
    return ["## By size", "", SIZES_SAID, "", *table, ""] if table else []


def words_section(records: list[dict]) -> list[str]:
    """What reading adds, under a title, or nothing."""
    table = words_table(records)
    said = [
        "Each lesion was asked for by its own name, and as a tumor of another organ that the scan shows (a kidney tumor for",
        "a liver tumor, a bone tumor for a sarcoma), which is not there. What does not read answers both alike.",
    ]
    return ["## What words add", "", *said, "", *table, ""] if table else []


def results_page(records: list[dict], organs: list[dict], trained: dict[str, dict]) -> str:
    """bundle/docs/results.md."""
    lines = [
        "# Results",
        "",
        "Written by `scripts/model_card.py` from the records of `scripts/evaluate.py`; the README says how to run them.",
        "Means over cases with 95 % bootstrap intervals over patients. Dice and NSD count an empty answer as 0. AUROC and",
        "FPR95 rank voxels inside the host organ and 10 mm around it on phantoms, in the whole scan on real ones, where the",
        "organ is not outlined. `outlier` is an intensity outlier in the body, `everything` calls the whole body a tumor;",
        "neither reads the prompt. Seen kinds are those whose lesions were in training.",
        *(text for name, text in FURTHER.items() if any(r["method"] == name for r in records)),
        "",
        "## Overall",
        "",
        *results_table(records, list(GROUPS)),
        "",
        "## Scans without a lesion",
        "",
        *healthy_section(records, trained),
        "",
        *words_section(records),
        *sizes_section(records),
        *organs_section(organs, "## Healthy organs"),
        "## By kind and modality",
        "",
        *results_table(records, [k for k in groups(records) if k not in GROUPS]),
        "",
        "Real scans: soft tissue sarcoma (Soft-tissue-Sarcoma collection, TCIA, doi 10.7937/K9/TCIA.2015.7GO2GSKS), lung",
        "(4D-Lung, TCIA), glioblastoma (UPENN-GBM, TCIA), brain and breast (pyradiomics' examples), a small FLAIR (GaNDLF's",
        "test data), prostate (DICOM SEG example), healthy abdomens (TotalSegmentator's test data).",
        "",
    ]
    return "\n".join(lines)


def of_grids(config: dict, zooms: Sequence[float]) -> str:
    """Voxels of the grids that a method looks at a scan on."""
    return " and one of ".join(f"{round(config.get('spacing', 3.0) / zoom, 1)} mm" for zoom in zooms)


def card(records: list[dict], organs: list[dict], record: dict, method: str) -> str:
    """The model card of a method."""
    healthy = chr(10).join(["", *organs_section([r for r in organs if r["method"] == method], "### Healthy organs")])
    own = [r for r in records if r["method"] == method]
    trained = record.get("trained", {})
    facts = "\n".join(f"- {name.replace('_', ' ')}: {in_short(value)}" for name, value in trained.items())
    seconds = [r["seconds"] for r in own] or [float("nan")]
    config = record["config"]
    zooms = config.get("zooms", [1.0])
    grids, finest = of_grids(config, zooms), of_grids(config, [max(zooms)])
    tight = config.get("tight_zooms")
    tight = f" (a scan that one window holds: of {of_grids(config, tight)})" if tight else ""
    return f"""# Model card: starter weights of {method}

Written by `scripts/model_card.py`. **Research only; not a medical device.**

## What it is

A small {method} network ({config}) on a grid of {grids}{tight}, text encoder
`{record["text_encoder"]["name"]}`. File `models/{METHODS[method].weights}`, sha256 `{record["sha256"]}`.

## What it was trained on

{material(trained)}

{facts}

## How good it is

{chr(10).join(results_table(own, list(GROUPS)))}

{chr(10).join(healthy_section(own, {method: trained}))}

Median time a scan and its prompts, on the CPU that measured: {median(seconds):.1f} s. More, with baselines and by kind:
[results.md](results.md).
{healthy}
## What to expect

- The figures on real scans are the ones that matter; where they are low, the weights are a demonstration of the method.
- A lesion's name and place come from attributes and from phantoms' anatomy; real anatomy differs.
- Small lesions vanish on a grid of {finest}.
"""


def material(trained: dict) -> str:
    """What a card says weights were trained on, from the record of their training."""
    healthy, scans = (trained.get(kind, []) for kind in KINDS)
    phantoms = trained.get("phantoms", True)
    parts = ["phantoms"] * phantoms + ["lesions drawn in real anatomy"] * bool(healthy)
    parts += ["real scans as they are"] * bool(scans)
    first = ", ".join(parts[:-1]) + f", and {parts[-1]}" if parts[1:] else f"{parts[0]} alone"
    seen = ", ".join(lesion.name for lesion in lesions(seen=True))
    said = f"""\
Phantoms are synthetic CT and MR of limbs, abdomen, chest, head, pelvis, and of imaginary bodies. Lesions were drawn in
livers and kidneys ({seen}). Besides, there were "abstract lesions": anything unlike its surroundings, of any
shape and brightness, without a name or a place, in imaginary bodies and anywhere in real ones. {len(LESIONS) - 4} further
kinds of the vocabulary are unseen: no lesion with their name, host and look was in training, though something unusual
may have lain there. {real_note(healthy, scans)} All organs, healthy, are in the phantoms with labels."""
    return f"{first[0].upper()}{first[1:]}.\n{said if phantoms else real_note(healthy, scans)}"


def real_note(healthy: Sequence[str], scans: Sequence[str]) -> str:
    """What a card says of real scans in training, by name."""
    notes = [f"Real anatomy in training, of healthy people: {', '.join(healthy)}."] * bool(healthy)
    if scans:
        notes.append(f"Real scans in training, no test of these weights: {in_short(scans)}.")
    return " ".join(notes) or "No real scan was in training."


def in_short(value: object) -> object:
    """A fact as a card gives it: of many names the first, the weights' record has them all."""
    if not isinstance(value, list) or len(value) <= SHOWN:
        return value
    return f"{', '.join(value[:SHOWN])} and {len(value) - SHOWN} more, listed in the weights' record"


def cut(records: list[dict], method: str, trained: dict[str, dict]) -> list[str]:
    """The README's tables: three lines a method, sizes, and healthy scans. `method` comes first, ablations are left out."""
    own = sorted((r for r in records if ":" not in r["method"]), key=lambda r: r["method"] != method)
    healthy = healthy_section([r for r in own if set(asked_in_turn(r["method"])) <= set(METHODS)], trained)
    sizes = sizes_table(own)
    return [*results_table(own, list(GROUPS)), *(["", SIZES_SAID, "", *sizes] if sizes else []), "", *healthy]


def weights_record(models: Path, method: str, measured: str, source: Path) -> dict:
    """The record of a method's weights.

    Raises:
        WeightsError: it is missing, or the records were measured with other weights.
    """
    path = (models / METHODS[method].weights).with_suffix(".json")
    if not path.is_file():
        raise WeightsError(f"{path} is missing: give the folder of the weights that were measured as --models")
    record = json.loads(path.read_text())
    if measured != record["sha256"]:
        raise WeightsError(f"{source} was measured with other weights ({measured}): measure again")
    return record


def read(source: Path | None) -> dict:
    """A file of records, or none."""
    return NOTHING if source is None else json.loads(source.read_text())


def keep_up(kept: dict, fresh: dict, models: Path) -> dict:
    """What was known and what is new: records of weights that are gone go, and those of a set that was measured anew."""
    new = fresh["weights_sha256"]
    measured = {(r["method"], r["set"]) for r in fresh["records"]}
    old = {k: v for k, v in kept["weights_sha256"].items() if new.get(k, v) == v and current(k, v, models)}
    records = [r for r in kept["records"] if r["method"] in old and (r["method"], r["set"]) not in measured]
    records += fresh["records"]
    order = {name: k for k, name in enumerate([IN_TURN, *METHODS, *BASELINES, *OPPONENTS])}
    records.sort(key=lambda r: order.get(r["method"].partition(":")[0], len(order)))  # stable
    return {"weights_sha256": {**old, **new}, "records": records}


def current(name: str, measured: str, models: Path) -> bool:
    """Whether a method's weights are still those that were measured; what has no file of its own is taken to be.

    `measured` is their hash; of several methods together, "name:hash" of each, with commas between them.
    """
    if ":" in measured:
        return all(current(*part.split(":"), models) for part in measured.split(","))
    method = {**METHODS, **OPPONENTS}.get(name.partition(":")[0])
    path = (models / method.weights).with_suffix(".json") if method else None
    return path is None or (path.is_file() and json.loads(path.read_text())["sha256"] == measured)


def one_a_line(value: dict) -> str:
    """JSON with a line a record, so that two states can be compared."""
    parts = []
    for key, part in value.items():
        inner = ",\n".join(json.dumps(r) for r in part["records"])
        parts.append(f'"{key}": {{"weights_sha256": {json.dumps(part["weights_sha256"])}, "records": [\n{inner}\n]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def replace_between(text: str, begin: str, end: str, lines: list[str]) -> str:
    """Text with what stands between two marks replaced.

    Raises:
        typer.BadParameter: the marks are not there.
    """
    if begin not in text or end not in text:
        raise typer.BadParameter(f"the page has no lines {begin} and {end}: put them where the table is to stand")
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return head + begin + "\n" + "\n".join(lines) + "\n" + end + tail


def main(
    records: Annotated[Path, typer.Argument(help="JSON file of scripts/evaluate.py")],
    organs: Annotated[Path | None, typer.Option(help="JSON file of scripts/evaluate_organs.py")] = None,
    method: Annotated[str, typer.Option(help="which comes first in the README")] = IN_TURN,
    models: Annotated[Path, typer.Option(help="folder with the weights' records")] = ROOT / "bundle" / "models",
    docs: Annotated[Path, typer.Option(help="folder for the pages")] = ROOT / "bundle" / "docs",
    readme: Annotated[Path, typer.Option(help="file whose results block is replaced")] = ROOT / "README.md",
) -> None:
    """Write the cards, results.md and the README's table."""
    kept_file = docs / "records.json"
    kept = json.loads(kept_file.read_text()) if kept_file.is_file() else {"lesions": NOTHING, "organs": NOTHING}
    fresh = {"lesions": read(records), "organs": read(organs)}
    all_ = {key: keep_up(kept[key], fresh[key], models) for key in fresh}
    saved, known = all_["lesions"], all_["organs"]
    sources = ((records, saved), (organs, known))
    try:
        cards = {
            name: weights_record(models, name, measured, source)
            for source, file in sources for name, measured in file["weights_sha256"].items() if name in METHODS
        }  # fmt: skip
    except WeightsError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(1) from None
    trained = trainings(models)
    pages = {
        kept_file: one_a_line(all_),
        docs / "results.md": results_page(saved["records"], known["records"], trained),
    }
    for name, record in cards.items():
        file = docs / ("model_card.md" if name == DEFAULT else f"model_card_{name}.md")
        pages[file] = card(saved["records"], known["records"], record, name)
    text = readme.read_text()
    pages[readme] = replace_between(
        text, "<!-- results:begin -->", "<!-- results:end -->", cut(saved["records"], method, trained)
    )
    for path, content in pages.items():
        write_atomically(path, lambda temporary, content=content: temporary.write_text(content))
        console.print(f"wrote {path}")


if __name__ == "__main__":
    typer.run(main)
