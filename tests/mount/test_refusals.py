"""Every refusal is in the log, with its reason.

Not here: what the kernel refuses without asking (mkdir of what is there, other users, ro);
archives (test_restore, test_imports); names (test_kept).
"""

import errno
import os
import pathlib

import pytest
from harness import kept, tree


@pytest.fixture
def made(mount, engine, volume):
    """A mount, with a volume that has a file and a snapshot."""
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount()
    kept.take(made, name, "a")
    made.name = name
    return made


REFUSALS = {
    "mkdir new": (os.mkdir, "new", "docker volume create"),
    "rmdir V": (os.rmdir, "V", "docker volume rm"),
    "rm file in .": (pathlib.Path.touch, "new", "docker volume create"),
    "rmdir .dvolfs": (os.rmdir, ".dvolfs", "docker volume"),
    "mv V": (lambda path: os.rename(path, f"{path}2"), "V", "docker volume"),
    "rm help.txt": (os.unlink, ".dvolfs/help.txt", "read-only"),
    "truncate log": (lambda path: open(path, "w", encoding="utf-8"), ".dvolfs/log", "read-only"),
    "write volume.json": (lambda path: open(path, "wb"), "V/volume.json", "read-only"),
    "touch help.txt": (os.utime, ".dvolfs/help.txt", "read-only"),
    "mkdir V/x": (os.mkdir, "V/x", "help.txt"),
    "rmdir V/data": (os.rmdir, "V/data", "help.txt"),
    "rm now.tar": (os.unlink, "V/snapshots/now.tar", "as it is read"),
    "rm now.tar.gz": (os.unlink, "V/snapshots/now.tar.gz", "as it is read"),
    "mv now.tar": (lambda path: os.rename(path, f"{path}.zst"), "V/snapshots/now.tar",
                   "as it is read"),
    "write now.tar": (lambda path: open(path, "r+b"), "V/snapshots/now.tar", "as it is read"),
    "mv a.tar.zst a.tar.zst.part": (lambda path: os.rename(
        path.with_name("a.tar.zst"), path), "V/snapshots/a.tar.zst.part", ".tar.zst"),
    "mkdir snapshots/x": (os.mkdir, "V/snapshots/x", ".tar.zst"),
    "ln -s snapshots/x": (lambda path: os.symlink("a", path), "V/snapshots/x", ".tar.zst"),
    "touch a.tar.zst": (os.utime, "V/snapshots/a.tar.zst", "another name"),
    "write a.tar.zst": (lambda path: open(path, "wb"), "V/snapshots/a.tar.zst", "another name"),
    "touch browse/x": (pathlib.Path.touch, "V/browse/x", "mkdir takes"),
    "mkfifo browse/x": (os.mkfifo, "V/browse/x", "mkdir takes"),
    "mkdir restore/x": (os.mkdir, "V/restore/x", "x.tar"),
    "mkfifo restore/x": (os.mkfifo, "V/restore/x.tar", "x.tar"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_told_by_name(made, case):
    call, path, reason = REFUSALS[case]
    path = path.replace("V", made.name)
    before = made.log()
    with pytest.raises(OSError):
        call(made.path / path)
    added = made.log().removeprefix(before)
    assert f" {path}: refused: " in added and reason in added, added


@pytest.mark.parametrize("place", ["data", "browse/b"])
def test_told_once_of_a_whole_tree(made, engine, place):
    """A program that goes through all of it does not push all else out of the log."""
    for number in range(200):
        (engine.mountpoint(made.name) / f"f{number}").touch()
    kept.take(made, made.name, "b")
    before = made.log()
    done = made.run("rm", "-r", made.volume(made.name) / place)
    assert done.returncode != 0 and done.stderr.count("Read-only file system") > 200
    added = made.log().removeprefix(before).splitlines()
    lines = [line for line in added if f" {made.name}/{place.split('/')[0]}: refused: " in line]
    assert lines and len(lines) == len(set(lines)) < 100, "one in a second"


def test_what_programs_find_a_way_around_is_not_told(made, scratch):
    """mv across directories copies; cp -a goes on without attributes."""
    snapshots = made.volume(made.name) / "snapshots"
    for call in (lambda: os.rename(snapshots / "a.tar.zst", made.restore(made.name) / "a.tar.zst"),
                 lambda: os.setxattr(snapshots / "a.tar.zst", "user.colour", b"red")):
        with pytest.raises(OSError) as refused:
            call()
        assert refused.value.errno in (errno.EXDEV, errno.ENOTSUP)
    (scratch / "x.tar").write_bytes((made.now(made.name)).read_bytes())
    os.setxattr(scratch / "x.tar", "user.colour", b"red")
    assert made.run("cp", "-a", scratch / "x.tar", made.restore(made.name)).returncode == 0
    assert made.run("mv", snapshots / "a.tar.zst", scratch).returncode == 0
    assert "refused" not in made.log()
    assert kept.listed(made, made.name) == []
