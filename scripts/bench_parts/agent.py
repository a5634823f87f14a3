"""The contents by an agent, beside those read directly."""
import functools
import os

from .base import progress
from .copies import WAYS, back_up
from .data import BIG, SMALL, census_of_tree, complaint_of_archive
from .measure import Group, Row, Table, Target, rounds
from .place import IMAGE, Command
from .read import FIND, TAR_NAME, find, tar, tar_wanted

BLOCK = 1 << 16         # what a pipe holds


def copy_out(scene, wanted, access, running=False):
    """One cp now.tar. The agent's start is a part of it, unless it is running."""
    place, top = scene.place, scene.at(access)
    scene.archive = place.archives / "agent.tar"
    scene.archive.unlink(missing_ok=True)
    place.no_helpers(scene)
    timed = place.time_copy(place.mounted(access),
                            Command(["cp", top / "snapshots" / "now.tar", scene.archive]),
                            prepare=(lambda: os.listdir(top / "data")) if running else None)
    return timed.seconds, timed.wrong or complaint_of_archive(scene.archive, wanted)


def carry(scene, wanted):
    """
    As many zeros as the files have bytes, out of a container and nowhere: the engine's part
    of agent-stream, without anything that is read or written.
    """
    timed = scene.place.time(Command(
        ["docker", "run", "--rm", "--network", "none", "--log-driver", "none", IMAGE,
         "/bin/busybox", "dd", "if=/dev/zero", f"bs={BLOCK}",
         f"count={max(1, wanted.bytes // BLOCK)}"]))
    return timed.seconds, timed.wrong


def backup_table(options, scene, wanted):
    copy = functools.partial(copy_out, scene, wanted)
    docker = next(way for way in WAYS if way.key == "docker-cp")
    return Table("backup", [
        Row("agent", "access=agent", lambda: copy("agent")),
        Row("running", "access=agent, running already", lambda: copy("agent", running=True)),
        Row("asked", "the same, without root's right to read all",
            lambda: copy("agent-asked", running=True)),
        Row("agent-stream", "access=agent-stream", lambda: copy("agent-stream")),
        Row("carried", "as many zeros by docker run, attached", lambda: carry(scene, wanted)),
        Row("local", "access=local", lambda: copy("local")),
        Row("docker-cp", docker.name, lambda: back_up(scene, wanted, docker)),
    ], options.cold, compared="agent")


def tree_table(options, scene, heading, once):
    """data/ of each access, of an agent that runs; once(top, cold, prepare) is one run."""
    def begin(access):
        top = scene.at(access) / "data"
        return once(top, options.cold, lambda: os.listdir(top))

    return Table(f"{heading}, agents running already", [
        *[Row(access, f"data/, access={access}", functools.partial(begin, access),
              slow=access == "agent-stream")
          for access in ("agent", "agent-asked", "agent-stream", "local")],
        Row("directory", "the volume's directory", lambda: once(scene.directory, options.cold)),
    ], options.cold, compared="agent")


def measure_set(place, options, name, fill):
    progress(f"{name}: making them")
    scene = place.volume()
    fill(scene.directory, options)
    group = Group("agent", name, census_of_tree(scene.directory))
    backup = backup_table(options, scene, group.census)
    group.tables = [backup]
    if name == SMALL[0]:
        group.tables += [
            tree_table(options, scene, FIND, functools.partial(find, place, group.census)),
            tree_table(options, scene, TAR_NAME,
                       functools.partial(tar, place, tar_wanted(place, scene.directory)))]
        group.targets = [
            Target(f"{name}: backup by access=agent, its start included", backup.row("agent"),
                   backup.row("local"), 1.3),
            Target(f"{name}: backup by access=agent-stream, its start included",
                   backup.row("agent-stream"), backup.row("docker-cp"), 0.5)]
    for table in group.tables:
        rounds(options, f"{name}, agent", table)
    place.remove(scene)
    for archive in place.archives.iterdir():
        archive.unlink()
    return group


def measure(place, options):
    for name, fill in (SMALL, BIG):
        yield measure_set(place, options, name, fill)
