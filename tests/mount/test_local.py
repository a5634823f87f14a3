"""Proofs and marks: what tells dvolfs that a directory, a volume or a helper is what it thinks."""
import os
import subprocess
from pathlib import Path

import pytest
from harness import tree
from harness.engine import SCRIPT
from harness.wait import wait_for


def owner(pid="self", start=None):
    """The process that something of dvolfs' belongs to, as its labels name it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}:{os.getpid()}:{start or fields[19]}"


@pytest.fixture
def dead():
    """An owner that is no more: another process had our pid."""
    return owner(start=1)


# A volume that proves that the engine's directories are seen, of a dvolfs that died.
def test_proofs_of_the_dead_are_removed(mount, engine, volume, dead):
    names = [volume(f"dvolfs-probe-t{os.getpid()}-{number}", Labels={"dvolfs.probe": dead})
             for number in range(2)]
    mount()
    assert not any(engine.has_volume(name) for name in names)


def test_other_volumes_are_no_such_proofs(mount, engine, volume, dead):
    elsewhere = dead.replace(f":{os.stat('/proc/self/ns/pid').st_ino}:", ":1:")
    names = [volume(f"dvolfs-probe-t{os.getpid()}-alive", Labels={"dvolfs.probe": owner()}),
             volume(f"dvolfs-probe-t{os.getpid()}-elsewhere", Labels={"dvolfs.probe": elsewhere}),
             volume(f"dvolfs-probe-t{os.getpid()}-odd", Labels={"dvolfs.probe": "me"}),
             volume(f"dvolfs-probe-t{os.getpid()}-plain"),
             volume(Labels={"dvolfs.probe": dead})]
    mount().umount()
    mount()
    assert all(engine.has_volume(name) for name in names)


def test_nothing_stays_of_the_proof(mount, engine):
    before = {each["Name"] for each in engine.api("GET", "/volumes")[1]["Volumes"] or []}
    mount(None, "access=local")
    assert before == {each["Name"] for each in engine.api("GET", "/volumes")[1]["Volumes"] or []}


# A volume that a helper made by mistake carries this label; one that has it is not yet such one.
@pytest.mark.access("api", "agent", "agent-stream")
def test_a_users_volume_with_our_label_stays(mount, engine, volume, source, archive, dead):
    names = [volume(Labels={"dvolfs.made-by": f"{who}:0"}) for who in (dead, owner())]
    made = mount()
    for name in names:
        assert made.run("cp", archive, made.restore(name)).returncode == 0
        assert made.run("cat", made.now(name)).returncode == 0
    made.umount()
    mount()
    for name in names:
        assert engine.has_volume(name)
        tree.assert_same(source, engine.mountpoint(name))


# An engine that comes back, and sees something else in the same place.
def test_an_engine_that_comes_back_elsewhere(mount, private_engine, namespace, scratch):
    """Its root is its own: what lies here under the path that it names is not its volume."""
    private_engine.stop()       # its data go where scripts/engine unmounts nothing
    os.rename(private_engine.directory / "data", scratch / "data")
    os.symlink(scratch / "data", private_engine.directory / "data")
    private_engine.restart()
    name = private_engine.volume()
    file = private_engine.mountpoint(name) / "file"
    file.write_text("here")
    made = mount(private_engine)
    path = made.data(name) / "file"
    assert path.read_text() == "here" and made.access(name) == "local"

    private_engine.stop()
    namespace.run("mount", "-t", "tmpfs", "tmpfs", scratch / "data")
    subprocess.run([*namespace.prefix(), SCRIPT, "start", private_engine.directory], check=True,
                   timeout=120, stdout=subprocess.PIPE)
    private_engine.volume(name)
    assert private_engine.mountpoint(name) / "file" == file, "it has the path that the old one had"
    Path(f"/proc/{private_engine.pid}/root{file}").write_text("there")
    assert file.read_text() == "here", "the old one is still there, unseen by the engine"
    wait_for(lambda: b"there" in made.now(name).read_bytes(), "now.tar is the engine's own", 20)
    wait_for(lambda: made.run("cat", path).stdout == "there", "data/ is the engine's own", 20)
