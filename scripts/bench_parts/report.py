"""What was measured, as text and as JSON."""
import dataclasses
import json
import os
from pathlib import Path

from .base import BINARY, MIB, TOP, run
from .measure import figure, ratio


def machine(place, options):
    cpu = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
           if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    peers = {}
    if "kept" in options.only:
        peers = {"restic": run("restic", "version").split(" compiled")[0],
                 "borg": run("borg", "--version"),
                 "squashfs": run("dpkg-query", "-W", "-f", "mksquashfs ${Version}",
                                 "squashfs-tools")}
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu[0] if cpu else os.uname().machine,
        "ram_gib": round(memory / (1 << 30), 1),
        "kernel": os.uname().release,
        "system": system_name(),
        "engine": run("docker", "version", "-f", "{{.Server.Version}}"),
        "docker_client": run("docker", "version", "-f", "{{.Client.Version}}"),
        "dvolfs": run(BINARY, "-V"),
        "build": build_type(),
        "filesystem": run("findmnt", "-n", "-o", "FSTYPE", "-T", place.dir),
        "caches": "dropped before each run" if options.cold else "warm, after one warm-up",
        "runs": options.runs,
        "slow_runs": options.slow_runs,
        "peers": peers,
    }


def system_name():
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "?"


def build_type():
    options = json.loads(run("meson", "introspect", "--buildoptions", TOP / "build"))
    return next(option["value"] for option in options if option["name"] == "buildtype")


def table_as_text(table, width):
    first = table.rows[0]
    if len({row.wrong for row in table.rows}) == 1 and first.wrong:
        return f"{table.heading}\n  {first.wrong}"
    lines = [f"{table.heading:<{width}}  {'median':>10}  {'fastest':>10}  {'slowest':>10}  runs"
             + (f"  {f'{table.compared} / this':>16}" if table.compared else "")]
    for row in table.rows:
        if row.median is None:
            lines.append(f"  {row.name:<{width - 2}}  {row.wrong or 'not measured'}")
            continue
        figures = [figure(value, table.unit)
                   for value in (row.median, min(row.values), max(row.values))]
        value = ratio(first, row)
        lines.append(f"  {row.name:<{width - 2}}  " + "  ".join(f"{text:>10}" for text in figures)
                     + f"  {len(row.values):>4}"
                     + (f"  {f'{value:.3f}' if value else '-':>16}" if table.compared else ""))
    return "\n".join(lines)


def verdict(target, options):
    if target.value is None:
        return f"{target.text}: not measured"
    word = "not judged" if options.quick else "holds" if target.holds else "DOES NOT HOLD"
    value = f"{target.value:.3f}" if target.other else figure(target.value, target.unit)
    return f"{target.text}: {word} ({value})"


def as_text(facts, groups, options):
    width = max([len(text) for group in groups for table in group.tables
                 for text in [table.heading, *[f"  {row.name}" for row in table.rows]]] + [20])
    peers = "".join(f", {version}" for version in facts["peers"].values())
    parts = [f"{facts['dvolfs']} ({facts['build']} build), Docker engine {facts['engine']}, "
             f"client {facts['docker_client']}{peers}\n"
             f"{facts['cores']} cores of {facts['cpu']}, {facts['ram_gib']} GiB RAM, "
             f"{facts['system']}, kernel {facts['kernel']}, {facts['filesystem']}\n"
             f"medians of {facts['runs']} interleaved runs ({facts['slow_runs']} of the slow ways, "
             f"see runs); caches: {facts['caches']}, where a table says nothing else"]
    if options.quick:
        parts.append("--quick: a smoke test with small trees; its times say nothing.")
    for group in groups:
        census = group.census
        size = f": {census.files:,} files, {census.members:,} members, " \
               f"{census.bytes / MIB:,.0f} MiB" if census else ""
        parts.append(f"== {group.section}: {group.name}{size}")
        parts += [table_as_text(table, width) for table in group.tables]
    parts.append("\n".join(["== targets"] + [verdict(target, options) for group in groups
                                             for target in group.targets]))
    return "\n\n".join(parts)


def row_as_json(row, table):
    return {"way": row.key, "name": row.name, "median": row.median, "values": row.values,
            "wrong": row.wrong,
            "ratio": ratio(table.rows[0], row) if table.compared else None}


def as_json(facts, groups, options):
    return {
        "machine": facts,
        "quick": options.quick,
        "scale": options.scale,
        "sections": options.only,
        "groups": [{
            "section": group.section, "name": group.name,
            "census": dataclasses.asdict(group.census) if group.census else None,
            "tables": [{"table": table.heading, "unit": table.unit, "compared": table.compared,
                        "caches": "cold" if table.cold else "warm",
                        "rows": [row_as_json(row, table) for row in table.rows]}
                       for table in group.tables]} for group in groups],
        "targets": [{"target": target.text, "kind": "ratio" if target.other else target.unit,
                     "most": target.most, "value": target.value, "holds": target.holds}
                    for group in groups for target in group.targets],
    }
