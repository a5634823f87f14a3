"""Backup and restore of a volume."""
import dataclasses
import functools
from typing import Callable

from .base import progress
from .data import BIG, SMALL, census_of_tree, complaint, complaint_of_archive
from .measure import Group, Row, Table, Target, rounds
from .place import Command, Scene

TARGET_RATIO = 1.1      # against docker cp


@dataclasses.dataclass
class Way:
    """A way to back up and restore; the first of WAYS is compared to each other."""
    key: str
    name: str
    backup: Callable[[Scene], Command]
    restore: Callable[[Scene], Command]
    suffix: str = ".tar"    # of its archives; it restores one of the same kind
    restorable: bool = True  # its archive may be what is restored
    access: str = ""        # of dvolfs
    slow: bool = False


WAYS = [
    Way("dvolfs", "dvolfs, cp",
        lambda s: Command(["cp", s.at("auto") / "snapshots" / "now.tar", s.archive]),
        lambda s: Command(["cp", s.archive, s.at("auto") / "restore"]),
        access="auto"),
    Way("dvolfs-api", "dvolfs, access=api",
        lambda s: Command(["cp", s.at("api") / "snapshots" / "now.tar", s.archive]),
        lambda s: Command(["cp", s.archive, s.at("api") / "restore"]),
        access="api", slow=True),
    Way("docker-cp", "docker cp",
        lambda s: Command(["docker", "cp", f"{s.helper}:/volume/.", "-"], stdout=s.archive),
        lambda s: Command(["docker", "cp", "-", f"{s.helper}:/volume"], stdin=s.archive)),
    Way("api", "curl, archive API",
        lambda s: Command(["curl", "-sS", "--fail", "--unix-socket", s.socket, s.url("/volume/."),
                           "-o", s.archive]),
        lambda s: Command(["curl", "-sS", "--fail", "--unix-socket", s.socket, s.url("/volume"),
                           "-T", s.archive]), slow=True),
    Way("docker-run", "docker run, tar czf",
        lambda s: Command(s.docker_run("tar", "czf", f"/backup/{s.archive.name}",
                                       "-C", "/volume", ".")),
        lambda s: Command(s.docker_run("tar", "xzf", f"/backup/{s.archive.name}",
                                       "-C", "/volume")),
        suffix=".tar.gz", slow=True),
    Way("tar", "GNU tar, as root",
        lambda s: Command(["tar", "-C", s.directory, "-cf", s.archive, "."]),
        lambda s: Command(["tar", "-C", s.directory, "-xpf", s.archive]),
        restorable=False),      # all the others' are the engine's
]


def back_up(scene, wanted, way):
    """One backup: (seconds, what went wrong or None)."""
    place = scene.place
    scene.archive = archive_of(place, way)
    scene.archive.unlink(missing_ok=True)
    command = way.backup(scene)
    timed = place.time_copy(place.mounted(way.access), command) if way.access else \
        place.time(command)
    return timed.seconds, timed.wrong or complaint_of_archive(scene.archive, wanted)


def archive_of(place, way):
    return place.archives / f"{way.key}{way.suffix}"


def restore(place, archives, wanted, way):
    if way.suffix not in archives:
        return 0.0, "there is no complete archive to restore"
    scene = place.volume()
    scene.archive = archives[way.suffix]
    timed = place.time(way.restore(scene))
    wrong = timed.wrong or complaint(census_of_tree(scene.directory), wanted)
    place.remove(scene)
    return timed.seconds, wrong


def archives_of(place, backup):
    """All restore the same archive, the last complete one of their kind: {suffix: path}"""
    return {way.suffix: archive_of(place, way) for way, row in zip(WAYS, backup.rows)
            if way.restorable and row.values and not row.wrong}


def archives_made(scene, wanted):
    """The same where no backup is measured: made for the restore alone."""
    found = {}
    for way in reversed([way for way in WAYS if way.restorable]):
        if way.suffix not in found and not back_up(scene, wanted, way)[1]:
            found[way.suffix] = archive_of(scene.place, way)
    return found


def table_of(options, heading, once):
    return Table(heading, [Row(way.key, way.name, functools.partial(once, way), way.slow)
                           for way in WAYS], options.cold)


def targets(name, table):
    dvolfs = table.row("dvolfs")
    found = [Target(f"{name}: {table.heading}", dvolfs, table.row("docker-cp"), TARGET_RATIO)]
    if table.heading == "backup" and name == SMALL[0]:
        found += [Target(f"{name}: backup", dvolfs, table.row(key), most)
                  for key, most in (("tar", 1.0), ("docker-cp", 0.25))]
    return found


def measure_set(place, options, name, fill):
    progress(f"{name}: making them")
    scene = place.volume()
    fill(scene.directory, options)
    group = Group("/".join(part for part in ("backup", "restore") if part in options.only), name,
                  census_of_tree(scene.directory))
    if "backup" in options.only:
        backup = table_of(options, "backup", functools.partial(back_up, scene, group.census))
        rounds(options, name, backup)
        archives = archives_of(place, backup)
        group.tables.append(backup)
    else:
        archives = archives_made(scene, group.census)
    place.remove(scene)
    if "restore" in options.only:
        table = table_of(options, "restore",
                         functools.partial(restore, place, archives, group.census))
        rounds(options, name, table)
        group.tables.append(table)
    for archive in place.archives.iterdir():
        archive.unlink()
    group.targets = [target for table in group.tables for target in targets(name, table)]
    return group


def measure(place, options):
    for name, fill in (SMALL, BIG):
        yield measure_set(place, options, name, fill)
