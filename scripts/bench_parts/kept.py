"""Kept snapshots, and now.tar compressed."""
import functools
import os
import random
import time

from .base import MIB, progress, wait_for
from .copies import WAYS, back_up
from .data import SMALL, census_of_tree, change, complaint_of_archive, many_big
from .keepers import Borg, Dvolfs, Restic, Squashfs, TarZstd
from .measure import Group, Row, Table, Target, rounds
from .place import Command
from .read import FIND, TAR_NAME, find, tar, tar_wanted

RECENT_SECONDS = 2.5    # a snapshot's files that changed this shortly before are read again


# ---- what this dvolfs has -----------------------------------------------------------------

def lacking(place):
    """Why now.tar.gz, and why snapshots, cannot be measured; None for what can."""
    scene = place.volume()
    (scene.directory / "file").write_text("probe\n")
    top = scene.at("auto")
    compressed = kept = None
    try:
        (top / "snapshots" / "now.tar.gz").stat()
    except OSError as error:
        compressed = f"this dvolfs has no now.tar.gz ({error.strerror})"
    try:
        (top / "snapshots" / "probe.tar.zst").touch()
        if not (top / "browse" / "probe" / "file").is_file():
            kept = "this dvolfs has no browse/NAME"
        (top / "snapshots" / "probe.tar.zst").unlink()
    except OSError as error:
        kept = f"this dvolfs keeps no snapshots ({error.strerror})"
    place.remove(scene)
    return compressed, kept


def measured(options, why_not, what, *tables):
    """rounds, unless there is something against it."""
    if not why_not:
        rounds(options, what, *tables)
        return
    progress(f"{what}: not measured: {why_not}")
    for row in [row for table in tables for row in table.rows]:
        row.wrong = f"not measured: {why_not}"


# ---- now.tar, compressed --------------------------------------------------------------------

def copy_out(scene, wanted, suffix):
    scene.archive = scene.place.archives / f"now{suffix}"
    scene.archive.unlink(missing_ok=True)
    command = Command(["cp", scene.at("auto") / "snapshots" / f"now{suffix}", scene.archive])
    timed = scene.place.time_copy(scene.place.mounted("auto"), command)
    return timed.seconds, timed.wrong or complaint_of_archive(scene.archive, wanted)


def measure_compressed(options, scene, group, why_not):
    recipe = next(way for way in WAYS if way.key == "docker-run")
    table = Table("backup, compressed", [
        *[Row(suffix, f"dvolfs, cp now{suffix}",
              functools.partial(copy_out, scene, group.census, suffix))
          for suffix in (".tar.gz", ".tar.zst")],
        Row(recipe.key, recipe.name, lambda: back_up(scene, group.census, recipe), slow=True),
    ], options.cold, compared="now.tar.gz")
    measured(options, why_not, group.name, table)
    group.tables.append(table)
    group.targets += [Target(f"{group.name}: cp now{suffix}", table.row(suffix),
                             table.row(recipe.key), most)
                      for suffix, most in ((".tar.gz", 1 / 10), (".tar.zst", 1 / 6))]


# ---- snapshots --------------------------------------------------------------------------------

class Series:
    """Rounds of three snapshots each: into a new store, of the same, and of what changed."""

    STEPS = {"first": "first snapshot, into a new store", "again": "second, nothing changed",
             "changed": "third, 1 % of the files changed"}

    def __init__(self, place, options, scene, wanted):
        self.place, self.scene = place, scene
        self.keepers = [kind(scene, wanted) for kind in (Dvolfs, Restic, Borg)]
        self.once_only = [kind(scene, wanted) for kind in (TarZstd, Squashfs)]
        self.sizes = {}
        self.contents = {}          # what the last change made of files
        self.changed = time.monotonic()
        self.tables = {step: self.table(options, step) for step in self.STEPS}
        self.tables["first"].before = self.before_first
        self.tables["changed"].before = self.before_changed
        self.tables["again"].after = self.tables["first"]
        self.tables["changed"].after = self.tables["again"]
        self.tables["again"].rows.append(
            Row("restic-open", "restic, opening its repository alone", self.open_restic))
        self.tables["size"] = Table("size of the first", [
            Row(keeper.key, keeper.name, lambda key=keeper.key: (self.sizes[key] / MIB, None),
                keeper.slow) for keeper in self.all], options.cold, "MiB",
            after=self.tables["first"])

    @property
    def all(self):
        return self.keepers + self.once_only

    def table(self, options, step):
        return Table(self.STEPS[step], [
            Row(keeper.key, keeper.name, functools.partial(self.keep, keeper, step), keeper.slow)
            for keeper in (self.all if step == "first" else self.keepers)], options.cold)

    def before_first(self, _number):
        time.sleep(max(0.0, self.changed + RECENT_SECONDS - time.monotonic()))
        self.contents = {}

    def before_changed(self, number):
        self.contents = change(self.scene.directory, number)
        self.changed = time.monotonic()

    def keep(self, keeper, step):
        if step == "first":
            keeper.fresh()
        command = keeper.take(step)
        timed = self.place.time_copy(keeper.mount, command) if keeper.mount else \
            self.place.time(command)
        wrong = timed.wrong or keeper.complaint(step, self.contents)
        if step == "first" and not wrong:
            self.sizes[keeper.key] = keeper.bytes_of(step)
        return timed.seconds, wrong

    def open_restic(self):
        restic = self.keepers[1]
        timed = self.place.time(Command(["restic", "--no-cache", "cat", "config"],
                                        env=restic.env))
        return timed.seconds, timed.wrong

    def targets(self, name):
        found = [Target(f"{name}: {self.STEPS[step]}", self.tables[step].row("dvolfs"),
                        self.tables[step].row("restic"), most)
                 for step, most in (("first", 1 / 3), ("again", 1 / 5), ("changed", 1 / 3))]
        size = self.tables["size"]
        return found + [Target(f"{name}: {size.heading}", size.row("dvolfs"),
                               size.row("tar-zstd"), 1.05, of="is")]


def browse_table(series, heading, once):
    """once(top, cold) on the last snapshot of each; of what squashfs has, the first."""
    def fresh(keeper):
        with keeper.opened("changed") as top:
            wait_for(top.is_dir, f"{keeper.name} shows its snapshot")
            return once(top, True)

    named = zip((series.keepers[0], series.keepers[1], series.once_only[1]),
                ("dvolfs, browse/NAME", "restic mount", "squashfuse_ll"))
    slow = heading == TAR_NAME
    return Table(f"{heading}, cold, freshly mounted", [
        Row(keeper.key, name, functools.partial(fresh, keeper), slow and keeper.key == "restic")
        for keeper, name in named], True, after=series.tables["changed"])


def measure_small(place, options, why_not_compressed, why_not):
    name, fill = SMALL
    progress(f"{name}: making them")
    scene = place.volume()
    fill(scene.directory, options)
    group = Group("kept", name, census_of_tree(scene.directory))
    measure_compressed(options, scene, group, why_not_compressed)
    place.unmount_all()
    series = Series(place, options, scene, group.census)
    measured(options, why_not, name, *series.tables.values())
    browse = [
        browse_table(series, FIND, functools.partial(find, place, group.census)),
        browse_table(series, TAR_NAME,
                     functools.partial(tar, place, tar_wanted(place, scene.directory)))]
    for table in browse:
        measured(options, why_not, f"{name}, browse", table)
    group.tables += [*series.tables.values(), *browse]
    group.targets += series.targets(name)
    group.targets += [Target(f"{name}: {table.heading}", table.row("dvolfs"),
                             table.row("restic"), most)
                      for table, most in zip(browse, (1 / 6, 1 / 5))]
    for keeper in series.all:
        keeper.remove()
    place.remove(scene)
    for archive in place.archives.iterdir():
        archive.unlink()
    return group


# ---- one file out of a big snapshot -------------------------------------------------------------

def ask(place, scene, top, names, size):
    """The next file of names, its first bytes (all of them: -1), in milliseconds."""
    name = names.pop(0)
    names.append(name)          # none is asked for again before all were
    place.settle(cold=True)
    os.listdir(top())           # open, as it is to be
    begin = time.monotonic()
    with open(top() / name, "rb", buffering=0) as file:
        data = file.read(size)
    milliseconds = (time.monotonic() - begin) * 1000
    with open(scene.directory / name, "rb") as file:
        right = data == file.read(size)
    return milliseconds, None if right else f"not the bytes of {name}"


def measure_big(place, options, why_not):
    group = Group("kept", "many big files, one of them asked for")
    scene = place.volume()
    if not why_not:
        progress(f"{group.name}: making them")
        many_big(scene.directory, options)
    group.census = census_of_tree(scene.directory)
    keeper = Dvolfs(scene, group.census)
    if not why_not:
        keeper.fresh()
        progress(f"{group.name}: taking a snapshot")
        why_not = place.time(keeper.take("big")).wrong
    # Every other one: what is asked for has no neighbour whose frame was read for another.
    names = [f"part-{number:03}" for number in range(0, group.census.files // 2, 2)]
    random.Random(4).shuffle(names)

    def row(key, name, suffix, size):
        return Row(key, name, functools.partial(
            ask, place, scene, lambda: keeper.path_open("big"),
            [name + suffix for name in names], size))

    table = Table("a file of browse/NAME, once that is open", [
        row("small", "a file of some KiB, all of it", ".txt", -1),
        row("big", "the first 4 KiB of a big one", "", 4096),
    ], True, "ms", compared=None, times=4)
    measured(options, why_not, group.name, table)
    group.tables = [table]
    group.targets = [Target(f"{group.name}: {row.name} (absolute)", row, None, 20, "ms")
                     for row in table.rows]
    keeper.remove()
    place.remove(scene)
    return group


def measure(place, options):
    compressed, kept = lacking(place)
    yield measure_small(place, options, compressed, kept)
    yield measure_big(place, options, kept)
