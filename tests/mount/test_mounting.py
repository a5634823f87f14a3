"""Mounting: the ways to call it, what it refuses and how, and how it ends."""
import contextlib
import json
import os
import signal
import socket
import subprocess

import pytest
from harness import tree
from harness.daemon import mounts
from harness.proxy import Stall
from harness.wait import wait_for


def test_mounts_and_returns(mount, engine):
    made = mount()
    assert made.mounted()[0][:2] == (engine.host, "fuse.dvolfs")
    assert (made.path / ".dvolfs" / "help.txt").read_text()
    made.umount()
    assert not made.mounted()
    assert made.path.is_dir() and not any(made.path.iterdir())


def test_leaves_the_callers_terminal_alone(mount):
    """Neither the output nor the directory of the caller stays in use."""
    made = mount()
    for number in (0, 1, 2):
        assert not os.readlink(f"/proc/{made.pid}/fd/{number}").startswith("pipe:")
    assert os.readlink(f"/proc/{made.pid}/cwd") == "/"
    assert os.getsid(made.pid) != os.getsid(0)


@pytest.mark.parametrize("spec", ["", "default", "docker"])
def test_finds_the_engine_as_docker_does(mount, engine, volume, spec):
    name = volume()
    made = mount(spec, environment={"DOCKER_HOST": engine.host})
    assert name in os.listdir(made.path)
    assert made.mounted()[0][1] == "fuse.dvolfs"
    if spec:
        assert made.mounted()[0][0] == spec


def test_stays_in_front(mount, volume):
    name = volume()
    made = mount.prepare(flags=["-f"]).start_in_front()
    assert made.pid == made.front.pid
    assert name in os.listdir(made.path)
    made.umount()
    assert made.front.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_as_umount_does(mount, number):
    made = mount.prepare(flags=["-f"]).start_in_front()
    made.killed = True
    os.kill(made.pid, number)
    assert made.front.wait(20) == 0
    assert not made.mounted()


def test_ended_while_files_are_open(mount, engine, volume):
    """Of what is open nothing is left behind: of memory either, where that is looked at."""
    name = volume()
    top = engine.mountpoint(name)
    tree.simple(top)
    (top / "file").write_text("plain\n")
    for number in range(5000):
        os.mknod(top / f"{number:05}-{'x' * 60}")
    made = mount.prepare(flags=["-f"]).start_in_front()
    files = [open(path, "rb", buffering=0)
             for path in (made.now(name), made.path / ".dvolfs" / "help.txt")]
    files.append(open(made.restore(name, "x.tar"), "wb", buffering=0))
    files[-1].write(b"half of it")
    listings = [os.scandir(path) for path in (made.path, made.restore(name))]
    if made.access(name) != "api":
        files.append(open(made.data(name) / "file", "rb", buffering=0))
        listings.append(os.scandir(made.data(name)))
    for listing in listings:
        next(listing)
    os.kill(made.pid, signal.SIGTERM)
    assert made.front.wait(20) == 0
    made.killed = True
    for opened in listings + files:
        with contextlib.suppress(OSError):  # there is nobody left to say anything else
            opened.close()
    assert (top / "file").read_text() == "plain\n" and not engine.helpers()


def test_option_ro(mount, engine, volume, scratch):
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount(None, "ro")
    assert "ro" in made.mounted()[0][2].split(",")
    assert made.run("cp", made.now(name), scratch / "x.tar").returncode == 0
    done = made.run("cp", scratch / "x.tar", made.restore(name))
    assert done.returncode != 0 and "Read-only file system" in done.stderr


def test_option_allow_other(mount, namespace, engine, volume):
    name = volume()
    other = mount.user()
    made = mount()
    assert subprocess.run([*other.prefix(), "ls", made.path], check=False,
                          capture_output=True).returncode != 0
    made.umount()
    made = mount(None, "allow_other")
    listed = subprocess.run([*other.prefix(), "ls", made.path], check=True, capture_output=True,
                            text=True)
    assert name in listed.stdout.split()
    for private in ("snapshots", "restore"):
        assert subprocess.run([*other.prefix(), "ls", made.path / name / private], check=False,
                              capture_output=True).returncode != 0
    for private in ("snapshots/now.tar", "volume.json"):
        assert subprocess.run([*other.prefix(), "cat", made.path / name / private], check=False,
                              capture_output=True).returncode != 0


def test_store_and_spool_are_where_the_options_say(mount, engine, volume, scratch):
    name = volume()
    tree.simple(engine.mountpoint(name))
    spool, store = scratch / "my spool", scratch / "store"
    made = mount(None, f"store={store}", f"spool={spool}", "access=api", "cache=3")
    status = json.loads((made.path / ".dvolfs" / "status.json").read_text())
    assert str(store) in json.dumps(status) and str(spool) in json.dumps(status)
    assert made.run("cat", made.now(name)).returncode == 0
    assert spool.is_dir()
    assert os.stat(spool).st_mode & 0o077 == 0, "what is spooled is private"
    wait_for(lambda: not any(spool.iterdir()), "the spool is empty")


def test_mount8_options_are_accepted(mount, engine):
    made = mount(None, "rw", "nosuid", "nodev", "noatime", "_netdev", "nofail", "noauto", "user",
                 "defaults", "x-systemd.automount", "x-gvfs-hide", "comment=hello")
    assert "nosuid" in made.mounted()[0][2].split(",")


@pytest.mark.parametrize("flags", [["-n"], ["-v"], ["-s"]])
def test_mount8_flags_are_accepted(mount, flags):
    mount(flags=flags)


def test_help_and_version(binary):
    for flag, word in (("-h", "store="), ("--help", "spool="), ("-V", "dvolfs"),
                       ("--version", "dvolfs")):
        done = subprocess.run([binary, flag], capture_output=True, text=True, check=True)
        assert word in done.stdout and not done.stderr


# What is refused: one line that names the thing, nothing mounted, exit status not 0.
def test_no_engine(mount, scratch):
    line = mount.refused(f"unix://{scratch}/none.sock")
    assert f"{scratch}/none.sock" in line


def test_something_else_at_the_socket(mount, scratch):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(scratch / "deaf.sock"))
        line = mount.refused(f"unix://{scratch}/deaf.sock")
    assert f"{scratch}/deaf.sock" in line


def test_no_rights_on_the_engine(mount, namespace, private_engine):
    os.chmod(private_engine.socket, 0o600)
    line = mount.refused(private_engine, user=mount.user(), namespace=namespace)
    assert private_engine.socket in line
    assert "ermission" in line and "docker" in line, "the way out: the docker group"


def test_an_engine_that_hangs_does_not_hang_mount_for_ever(mount, private_engine):
    private_engine.hang()
    try:
        assert private_engine.socket in mount.refused(private_engine)
    finally:
        private_engine.resume()


@pytest.mark.parametrize("option", ["level2=3", "nonsense", "cache=soon", "cache=-1", "cache=",
                                    "access=magic", "store="])
def test_bad_option(mount, option):
    line = mount.refused(None, option)
    assert option.split("=")[0] in line


@pytest.mark.parametrize("spec", ["ftp://somewhere", "unix://", "/plain/path", "tcp://x:1"])
def test_bad_spec(mount, spec):
    assert spec in mount.refused(spec)


def test_spec_too_long_for_a_socket(mount, scratch):
    assert "at most 107 bytes" in mount.refused(f"unix://{scratch}/{'x' * 120}")


def test_bad_mountpoint(mount, scratch):
    assert str(scratch / "missing") in mount.refused(path=scratch / "missing")
    file = scratch / "file"
    file.touch()
    assert str(file) in mount.refused(path=file)
    assert file.exists()


def test_no_mountpoint_at_all(binary):
    done = subprocess.run([binary], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and done.stderr.strip()


def test_store_that_cannot_be_made(mount, scratch):
    (scratch / "file").touch()
    assert str(scratch / "file") in mount.refused(None, f"store={scratch}/file/store")


# mount(8) and fstab
def test_mount_dash_t(mount, namespace, engine, volume, binary, scratch):
    name = volume()
    namespace.install(binary)
    path = scratch / "by-mount"
    path.mkdir()
    made = mount(path=path, namespace=namespace,
                 command=["mount", "-t", "dvolfs", engine.host, path,
                          "-o", f"store={scratch}/store,noatime"])
    assert made.mounted()[0][:2] == (engine.host, "fuse.dvolfs")
    assert name in made.run("ls", path).stdout.split()
    namespace.run("umount", path)
    made.killed = True
    wait_for(lambda: not made.alive(), "the daemon ended")


def test_fstab(mount, namespace, engine, volume, binary, scratch):
    name = volume()
    namespace.install(binary)
    path = scratch / "by fstab"
    path.mkdir()
    namespace.fstab(f"{engine.host} {str(path).replace(' ', chr(92) + '040')} dvolfs "
                    f"noauto,user,_netdev,nofail,x-systemd.requires=docker.service,"
                    f"allow_other,store={scratch}/store 0 0")
    made = mount(path=path, namespace=namespace, command=["mount", path])
    assert made.mounted()[0][:2] == (engine.host, "fuse.dvolfs")
    assert name in made.run("ls", path).stdout.split()


def test_mount_dash_t_fails_with_the_reason(mount, namespace, binary, scratch):
    namespace.install(binary)
    path = scratch / "by-mount"
    path.mkdir()
    made = mount.prepare(path=path, namespace=namespace,
                         command=["mount", "-t", "dvolfs", f"unix://{scratch}/none", path])
    done = made.attempt()
    assert done.returncode != 0 and f"{scratch}/none" in done.stderr
    assert not made.mounted()


# An ordinary user
def test_ordinary_user(mount, namespace, engine, volume, scratch):
    source, target = volume(), volume()
    tree.simple(engine.mountpoint(source))
    made = mount(user=mount.user(), namespace=namespace)
    assert made.mounted()[0][:2] == (engine.host, "fuse.dvolfs")
    assert {source, target} <= set(made.run("ls", made.path).stdout.split())
    archive = made.home / "x.tar"
    done = made.run("cp", made.now(source), archive)
    assert done.returncode == 0, done.stderr
    done = made.run("cp", archive, made.restore(target))
    assert done.returncode == 0, done.stderr
    tree.assert_same(engine.mountpoint(source), engine.mountpoint(target))
    assert made.run("stat", "-c", "%u", made.path, made.now(source)).stdout.split() == ["65534"] * 2
    store = made.home / ".local/share/dvolfs"
    assert store.is_dir() and os.stat(store).st_uid == 65534


def test_ordinary_user_on_a_directory_of_another(mount, namespace, scratch):
    path = scratch / "of-root"
    path.mkdir()
    user = mount.user()
    made = mount.prepare(user=user, namespace=namespace)
    made.command = [str(path) if word == str(made.path) else word for word in made.command]
    made.path = path
    done = made.attempt()
    assert done.returncode != 0 and str(path) in done.stderr
    assert not made.mounted()


# Leftovers of a crash
def test_a_stale_mountpoint_is_cleaned_up(mount, volume):
    name = volume()
    first = mount()
    first.kill(signal.SIGKILL)
    with pytest.raises(OSError, match="not connected|connection abort"):     # it is still dying
        os.listdir(first.path)
    second = mount(path=first.path)
    assert name in os.listdir(second.path)
    assert len(mounts(second.path)) == 1
    second.umount()
    assert not second.mounted()


def test_a_stale_mountpoint_of_a_user(mount, namespace, volume):
    name = volume()
    first = mount(user=mount.user(), namespace=namespace)
    first.kill(signal.SIGKILL)
    second = mount(path=first.path, user=mount.user(), namespace=namespace)
    assert name in second.run("ls", second.path).stdout.split()
    assert len(second.mounted()) == 1


def test_a_live_mount_is_not_mounted_over(mount):
    made = mount()
    assert str(made.path) in mount.refused(path=made.path)
    assert len(made.mounted()) == 1
    assert os.listdir(made.path) is not None


@pytest.mark.access("api")
def test_helpers_of_a_killed_daemon_go_with_the_next_mount(mount, proxy, engine, volume):
    name = volume()
    tree.simple(engine.mountpoint(name))
    stall = proxy.on("GET */archive", Stall())
    first = mount(proxy)
    reader = subprocess.Popen(["cat", first.now(name)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    assert stall.reached.wait(20)
    assert engine.helpers()
    first.kill(signal.SIGKILL)
    assert reader.wait(20) != 0
    assert engine.helpers(), "nobody has removed it yet"
    mount()
    engine.wait_no_helpers()


@pytest.mark.access("api")
def test_helpers_of_a_live_mount_stay(mount, proxy, engine, volume, scratch):
    name = volume()
    tree.simple(engine.mountpoint(name))
    stall = proxy.on("GET */archive", Stall())
    first = mount(proxy)
    reader = subprocess.Popen(["cp", first.now(name), scratch / "x.tar"])
    assert stall.reached.wait(20)
    helpers = engine.helpers()
    second = mount()
    assert second.run("cat", second.now(name)).returncode == 0
    second.umount()
    assert set(helpers) <= set(engine.helpers())
    assert engine.helper_images()
    stall.release()
    assert reader.wait(30) == 0
    assert tree.tar_differences(scratch / "x.tar", engine.mountpoint(name)) == []


def test_two_mounts_at_once(mount, engine, volume, scratch):
    name = volume()
    tree.simple(engine.mountpoint(name))
    first, second = mount(), mount()
    assert first.run("cp", first.now(name), scratch / "1.tar").returncode == 0
    first.umount()
    assert second.run("cp", second.now(name), scratch / "2.tar").returncode == 0
    assert (scratch / "1.tar").read_bytes() == (scratch / "2.tar").read_bytes()
