"""What a simulated annotator has gained: the figures of its runs, their curve, their table, and their part of a page."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from model_card import replace_between
from rich.console import Console
from rich.table import Table

from zerotumor.metrics import bootstrap
from zerotumor.volumes import write_atomically


def summary(rows: list[dict], rounds: int) -> dict[str, dict]:
    """Strategy -> Dice after each number of scans, gain over zero-shot on the same scans, with intervals over seeds."""
    out = {}
    for name in dict.fromkeys(r["strategy"] for r in rows):
        of = {k: [r for r in rows if r["strategy"] == name and r["scans"] == k] for k in range(rounds + 1)}
        out[name] = {
            "dice": {str(k): [round(v, 4) for v in bootstrap([r["dice"] for r in some])] for k, some in of.items()},
            "gain": {
                str(k): [round(v, 4) for v in bootstrap([r["dice"] - r["zero_shot"] for r in some])]
                for k, some in of.items()
            },
            "clicks": sum(r["clicks"] for r in of[rounds]) / len(of[rounds]),
            "runs": len(of[rounds]),
        }
    return out


def draw(results: dict[str, dict], title: str, path: Path) -> None:
    """Gain over zero-shot against scans corrected, a line a strategy; random's interval is shaded."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, result in results.items():
        scans = [int(k) for k in result["gain"]]
        mean, low, high = zip(*result["gain"].values(), strict=True)
        (line,) = axes.plot(scans, mean, marker="o", label=name)
        if name == "random":
            axes.fill_between(scans, low, high, color=line.get_color(), alpha=0.15)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set(xlabel="scans corrected", ylabel="Dice gained on scans not corrected yet", title=title)
    axes.legend(fontsize="small")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))


def table_of(facts: dict) -> list[list[str]]:
    """Header and rows: the gain after each number of scans."""
    results = facts["strategies"]
    header = ["strategy", *(f"{k} scans" for k in next(iter(results.values()))["gain"]), "clicks", "runs"]
    rows = []
    for name, r in results.items():
        gains = (f"{v[0]:+.2f} [{v[1]:+.2f}, {v[2]:+.2f}]" for v in r["gain"].values())
        rows.append([name, *gains, f"{r['clicks']:.0f}", str(r["runs"])])
    return [header, *rows]


def block(facts: dict) -> str:
    """Name of a simulation's part of a page: the set, and what corrects if it is not the truth."""
    return facts["on"] + ("" if facts["correct"] == "truth" else f"-{facts['correct']}")


def section(facts: dict, picture: str) -> list[str]:
    """What a page says of a simulation."""
    header, *rows = table_of(facts)
    start = next(iter(facts["strategies"].values()))["dice"]["0"][0]
    lost = facts["forgetting"]
    kept = "Used as scans say that are left out." if facts["checked"] else "All that is learned is used everywhere."
    lines = [
        f"### {block(facts)}",
        "",
        f"{facts['scans']} scans, corrected by {facts['correct']}; {facts['method']}, weights "
        f"`{facts['weights_sha256'][:12]}`, zero-shot Dice {start:.2f}; committee: {facts['others'] or 'none'}; "
        f"learned after {', '.join(map(str, facts['learned_after']))} scans. {kept}",
        "",
        *("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)),
        "",
        f"![Dice gained against scans corrected]({picture})",
    ]
    healthy = facts["healthy"]
    lines += [
        "",
        f"In {healthy['scans']} scans without a lesion, {healthy['before']:.1f} ml are found on average before and "
        f"{healthy['after']:.1f} ml after the last run.",
    ]
    if lost is not None:
        lines += ["", f"Forgetting, the largest loss of mean Dice on a seen kind of the test phantoms: {lost:.3f}."]
    return lines


def show(facts: dict, out: Path, page: Path | None, console: Console) -> None:
    """Draw the curve, print the table, and put both into a page."""
    title = f"{facts['on']}, {facts['scans']} scans, corrected by {facts['correct']}"
    draw(facts["strategies"], title, out / "curve.png")
    header, *rows = table_of(facts)
    table = Table(*header, title=f"{facts['on']}: Dice gained over zero-shot on the scans not corrected yet")
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
    if page is not None:
        picture = f"images/learning-{block(facts)}.png"
        draw(facts["strategies"], title, page.parent / picture)
        marks = [f"<!-- {block(facts)}:{end} -->" for end in ("begin", "end")]
        text = replace_between(page.read_text(), *marks, section(facts, picture))
        write_atomically(page, lambda temporary: temporary.write_text(text))
    console.print(f"everything in {out}")
