"""Compile and run the layout probe, keep its samples as JSON and print the table.

python benchmarks/layout/run.py [--mib 1024] [--rounds 3] [--keep] [--aids "b4 p16 g64 float"] [probe options…]

A cell is the median share: bytes/s of a variant over bytes/s of plain reads of the same pages just before and after.
Left out are samples whose two plain reads differ by more than 15 %, between which the host moved the cores, or during
which another process had more than 3 % of a CPU.
`--keep` adds to the samples that the JSON file holds instead of starting anew; `--table` only prints.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COLUMNS = [("huge", 1), ("huge", 2), ("file", 1), ("file", 2)]
STATES = ["2CCD", "1CCD", "SMT"]
STEADY, HELD = 0.15, 0.97


def machine() -> dict[str, str]:
    """What the figures belong to."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return {"cpu": cpu, "kernel": platform.release(), "compiler": compiler}


def probe(options: list[str], seconds: float) -> list[dict[str, Any]]:
    """Compile, run, and read the samples; a run out of time keeps the rounds that it finished."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "probe"
        # -Wno: GCC 12's own AVX-512 header warns of _mm512_undefined
        flags = "-O3 -march=native -std=c++17 -pthread -Wall -Wextra -Wno-uninitialized -Wno-maybe-uninitialized"
        subprocess.run(["g++", *flags.split(), str(HERE / "probe.cpp"), "-o", str(program)], check=True)
        with open(Path(folder) / "samples", "w+") as out:
            try:
                command = [str(program), "--file", str(Path(folder) / "mapped"), *options]
                subprocess.run(command, stdout=out, check=True, timeout=seconds)
            except subprocess.TimeoutExpired:
                print("out of time: the last round is not complete", file=sys.stderr)
            out.seek(0)
            return [json.loads(line) for line in out if line.endswith("\n")]


def load(path: Path) -> list[dict[str, Any]]:
    """The runs of a JSON file, their samples as dicts."""
    runs: list[dict[str, Any]] = json.loads(path.read_text())
    for run in runs:
        fields, *rows = run["samples"] or [[]]
        run["samples"] = [dict(zip(fields, row, strict=True)) for row in rows]
    return runs


def save(path: Path, runs: list[dict[str, Any]]) -> None:
    """Write the runs: the samples as rows under their fields, a line each."""
    parts = []
    for run in runs:
        samples = run["samples"]
        rows = [list(samples[0]), *(list(s.values()) for s in samples)] if samples else []
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        parts.append(json.dumps({**run, "samples": []}).replace('"samples": []', f'"samples": [\n{lines}\n]'))
    path.write_text("[" + ",\n".join(parts) + "]\n")


def clean(sample: dict[str, Any]) -> bool:
    """Whether the sample's surroundings stood still."""
    low, high = sorted(float(speed) for speed in sample["plain"])
    return bool(sample["state"] != "moved" and sample["held"] >= HELD and high <= low * (1 + STEADY))


def table(samples: list[dict[str, Any]], state: str) -> list[str]:
    """Markdown: a row a variant, the better prefetch distance of each column in its cell."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for s in samples:
        if clean(s) and s["state"] == state:
            cells[s["variant"], s["where"], s["threads"], s["prefetch"], s["next"]].append(s)
    head = " | ".join(f"{where} {threads}T" for where, threads in COLUMNS)
    lines = [f"| variant | bpw | {head} | GB/s, w/ns at file 2T |", "|---" * (len(COLUMNS) + 3) + "|"]
    for variant in dict.fromkeys(s["variant"] for s in samples):
        row, last = [], ""
        for where, threads in COLUMNS:
            found = {k[3:]: v for k, v in cells.items() if k[:3] == (variant, where, threads)}
            if not found:
                row.append("")
                continue
            shares = {k: statistics.median(s["share"] for s in v) for k, v in found.items()}
            best = max(shares, key=lambda k: shares[k])
            plain = max((v for k, v in shares.items() if not k[0]), default=None)
            without = "" if plain is None or not best[0] else f" ({plain:.2f})"
            row.append(f"{shares[best]:.2f}{without}")
            if (where, threads) != COLUMNS[-1]:
                continue
            speed, rate = (statistics.median(s[key] for s in found[best]) for key in ("gbps", "weights_per_ns"))
            last = f"{speed:.1f} · {rate:.1f}"
        if not any(row):
            continue
        bpw = next(s["bits_per_weight"] for s in samples if s["variant"] == variant)
        lines.append(f"| {variant} | {bpw:.3f} | " + " | ".join(row) + f" | {last} |")
    return lines


def aids_table(samples: list[dict[str, Any]]) -> list[str]:
    """Markdown: what the kernel can be told about a mapping."""
    lines = [
        "| advice | state | outcome | prepare, ms | first pass GB/s | later passes | plain read |",
        "|---" * 7 + "|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for s in samples:
        groups[s["aid"], s["state"]].append(s)
    for (aid, state), found in groups.items():
        prepare, *speeds = (statistics.median(s[k] for s in found) for k in ("prepare_s", "first", "later", "plain"))
        outcome = "done" if found[0]["rc"] == 0 else "refused"
        lines.append(
            f"| {aid} | {state} | {outcome} | {prepare * 1e3:.1f} | " + " | ".join(f"{v:.1f}" for v in speeds) + " |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=HERE / "results.json")
    parser.add_argument("--keep", action="store_true", help="add to the samples of the JSON file")
    parser.add_argument("--table", action="store_true", help="only print the table of the JSON file")
    parser.add_argument("--seconds", type=float, default=105, help="stop the probe after this time")
    known, options = parser.parse_known_args()
    runs = load(known.json) if known.keep or known.table else []
    if not known.table:
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
        samples = probe(options, known.seconds)
        runs.append({"machine": machine(), "date": date, "options": options, "samples": samples})
        save(known.json, runs)
    samples = [s for run in runs for s in run["samples"]]
    timed, advised = [s for s in samples if "gbps" in s], [s for s in samples if "aid" in s]
    for state in STATES:
        here = [s for s in timed if s["state"] == state and clean(s)]
        if here:
            for where, threads in COLUMNS:
                plain = [p for s in here if (s["where"], s["threads"]) == (where, threads) for p in s["plain"]]
                if plain:
                    print(f"{state}, {where}, {threads} threads: plain read {statistics.median(plain):.1f} GB/s")
            print(f"\n### {state}\n\n" + "\n".join(table(timed, state)) + "\n")
    if advised:
        print("\n".join(aids_table(advised)))


if __name__ == "__main__":
    main()
