"""Reading a volume's tree by data/, and a big one's archive."""
import functools
import os
import re
import time

from .base import BINARY, progress
from .data import SMALL, census_of_tree, complaint_of_archive, one_big
from .measure import Group, Row, Table, Target, rounds
from .place import Command

# GNU tar reads nothing at all where it sees that it writes to /dev/null itself.
TAR = ["bash", "-o", "pipefail", "-c", 'tar --totals -C "$0" -c . | cat >/dev/null']
FIND = "find -printf '%s\\n'"
TAR_NAME = "tar c | cat"


# ---- what is done with a tree; read and agent and kept do it -----------------------------

def find(place, wanted, top, cold, prepare=None):
    """One find that asks for each size: (seconds, what went wrong or None)."""
    output = place.dir / "sizes"
    timed = place.time(Command(["find", top, "-printf", "%s\\n"], stdout=output), cold,
                       prepare)
    sizes = [int(line) for line in output.read_text().splitlines()]
    if not timed.wrong and (len(sizes) != wanted.members or sum(sizes) < wanted.bytes):
        timed.wrong = f"not complete: {len(sizes):,} of {wanted.members:,} members, " \
                      f"{sum(sizes):,} bytes of {wanted.bytes:,} and directories"
    return timed.seconds, timed.wrong


def tar_bytes(errors):
    """What tar --totals says it wrote."""
    found = re.search(r"Total bytes written: (\d+)", errors)
    return int(found.group(1)) if found else 0


def tar_wanted(place, directory):
    return tar_bytes(place.time(Command([*TAR, directory]), cold=False).errors)


def tar(place, wanted_bytes, top, cold, prepare=None):
    """One tar of all of it: (seconds, what went wrong or None)."""
    timed = place.time(Command([*TAR, top]), cold, prepare)
    written = tar_bytes(timed.errors)
    if not timed.wrong and written != wanted_bytes:
        timed.wrong = f"not complete: {written:,} of {wanted_bytes:,} bytes"
    return timed.seconds, timed.wrong


# ---- the tree ---------------------------------------------------------------------------------

def tree_table(place, scene, heading, once, cold):
    """data/ and the directory itself; once(top, cold) is one run."""
    return Table(f"{heading}, {'cold' if cold else 'warm'}", [
        Row("local", "data/, access=local", lambda: once(scene.at("local") / "data", cold)),
        Row("directory", "the volume's directory", lambda: once(scene.directory, cold)),
    ], cold)


def measure_tree(place, options):
    name, fill = SMALL
    progress(f"{name}: making them")
    scene = place.volume()
    fill(scene.directory, options)
    group = Group("read", name, census_of_tree(scene.directory))
    by_find = functools.partial(find, place, group.census)
    by_tar = functools.partial(tar, place, tar_wanted(place, scene.directory))
    group.tables = [tree_table(place, scene, FIND, by_find, True),
                    tree_table(place, scene, FIND, by_find, False),
                    tree_table(place, scene, TAR_NAME, by_tar, options.cold)]
    for table, most in zip(group.tables, (8, 5, 5)):
        rounds(options, f"{name}, data/", table)
        group.targets.append(Target(f"{name}: {table.heading}", table.row("local"),
                                    table.row("directory"), most))
    return group, scene


# ---- the first byte ----------------------------------------------------------------------------

def some_file(directory):
    """The first that has something in it, by name."""
    for path, names, files in os.walk(directory):
        names.sort()
        for file in sorted(os.path.join(path, name) for name in files):
            if not os.path.islink(file) and os.path.getsize(file) > 0:
                return os.path.relpath(file, directory)
    raise FileNotFoundError("a file with something in it")


def first_byte(place, scene, access, since):
    """Mount, read a byte, and end that: milliseconds since mount.dvolfs began; since[access]
    becomes those since it returned."""
    path, name = place.path("mount"), some_file(scene.directory)
    path.mkdir()
    mount = place.background(path)
    timed = place.time(Command([BINARY, place.host, path, "-o",
                                f"store={place.dir}/store,access={access}"]))
    try:
        if timed.wrong:
            return 0.0, timed.wrong
        with open(path / scene.volume / "data" / name, "rb", buffering=0) as file:
            byte = file.read(1)
        end = time.monotonic()
    finally:
        place.release(mount)
    since[access] = (end - timed.end) * 1000
    right = byte == (scene.directory / name).read_bytes()[:1]
    return (end - timed.begin) * 1000, None if right else "not the file's first byte"


def measure_first_byte(place, options, scene):
    place.unmount_all()         # whatever this machine does meanwhile is for these
    since, accesses = {}, ("local", "agent")
    begun = Table("first byte of data/, since mount.dvolfs began", [
        Row(access, f"access={access}",
            functools.partial(first_byte, place, scene, access, since))
        for access in accesses], options.cold, "ms", compared=None)
    returned = Table("first byte of data/, since it returned", [
        Row(access, f"access={access}", lambda access=access: (since.pop(access), None))
        for access in accesses], options.cold, "ms", compared=None, after=begun)
    rounds(options, "mount", begun, returned)
    return Group("read", "a mount, of the same tree", None, [begun, returned], [
        Target(f"{returned.heading}, access={access} (absolute)", returned.row(access), None,
               most, "ms") for access, most in (("local", 50), ("agent", 1000))])


# ---- a big file --------------------------------------------------------------------------------

def copy_out(scene, wanted):
    scene.archive = scene.place.archives / "big.tar"
    scene.archive.unlink(missing_ok=True)
    command = Command(["cp", scene.at("local") / "snapshots" / "now.tar", scene.archive])
    timed = scene.place.time_copy(scene.place.mounted("local"), command)
    return timed.seconds, timed.wrong or complaint_of_archive(scene.archive, wanted)


def copy_plain(scene, wanted):
    copy = scene.place.archives / "big"
    copy.unlink(missing_ok=True)
    timed = scene.place.time(Command(["cp", scene.directory / "segment", copy]))
    whole = copy.exists() and copy.stat().st_size == wanted.bytes
    return timed.seconds, timed.wrong or (None if whole else "not complete")


def measure_big(place, options):
    name = "one big file"
    progress(f"{name}: making it")
    scene = place.volume()
    one_big(scene.directory, options)
    wanted = census_of_tree(scene.directory)
    table = Table("copy", [
        Row("now.tar", "cp now.tar, access=local", functools.partial(copy_out, scene, wanted)),
        Row("cp", "cp of the file itself", functools.partial(copy_plain, scene, wanted)),
    ], options.cold)
    rounds(options, name, table)
    place.remove(scene)
    for file in place.archives.iterdir():
        file.unlink()
    return Group("read", name, wanted, [table],
                 [Target(f"{name}: cp now.tar", table.row("now.tar"), table.row("cp"), 2.0)])


def measure(place, options):
    group, scene = measure_tree(place, options)
    yield group
    yield measure_first_byte(place, options, scene)
    place.remove(scene)
    yield measure_big(place, options)
