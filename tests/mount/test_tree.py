"""The tree: what it shows, how it follows the engine, and how it refuses."""
import errno
import json
import os
import stat
import subprocess
import time

import pytest
from harness import tree
from harness.proxy import Reset
from harness.wait import wait_for

SECOND = 1.0


def fails(call, *arguments, **keywords):
    """The errno that a call fails with."""
    with pytest.raises(OSError) as failure:
        call(*arguments, **keywords)
    return failure.value.errno


def test_a_directory_for_each_volume(mount, volume):
    names = {volume() for _ in range(5)}
    made = mount()
    shown = set(os.listdir(made.path))
    assert names <= shown
    assert shown - {".dvolfs"} <= set(os.listdir(made.path))
    for name in names:
        assert {"restore", "snapshots", "volume.json"} <= set(os.listdir(made.volume(name)))
        assert os.listdir(made.volume(name) / "snapshots") == ["now.tar"]
        assert os.listdir(made.volume(name) / "restore") == []


def test_kinds_and_modes(mount, volume):
    name = volume()
    made = mount()
    for path, kind, mode in ((".", stat.S_IFDIR, 0o755), (name, stat.S_IFDIR, 0o755),
                             (f"{name}/snapshots", stat.S_IFDIR, 0o700),
                             (f"{name}/restore", stat.S_IFDIR, 0o700),
                             (".dvolfs", stat.S_IFDIR, 0o700)):
        status = os.lstat(made.path / path)
        assert (stat.S_IFMT(status.st_mode), oct(stat.S_IMODE(status.st_mode))) == (kind, oct(mode))
        assert status.st_nlink >= 1 and (status.st_uid, status.st_gid) == (0, 0)
    for path in (f"{name}/volume.json", f"{name}/snapshots/now.tar"):
        status = os.lstat(made.path / path)
        assert stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077 == 0


def test_inodes_are_steady_and_distinct(mount, volume):
    names = [volume() for _ in range(3)]
    made = mount()
    def inodes():
        return {path: os.lstat(path).st_ino
                for name in names for path in
                (made.volume(name), made.volume(name) / "snapshots", made.volume(name) / "restore",
                 made.volume(name) / "volume.json")}
    first = inodes()
    assert len(set(first.values())) == len(first)
    assert inodes() == first
    entries = {entry.name: entry.inode() for entry in os.scandir(made.path)}
    for name in names:
        assert entries[name] == os.lstat(made.volume(name)).st_ino


def test_follows_the_docker_cli_within_a_second(mount, engine):
    made = mount()
    name = f"t{os.getpid()}-new"
    for _ in range(3):
        engine.docker("volume", "create", name)
        wait_for(lambda: name in os.listdir(made.path), "the new volume is listed", SECOND)
        wait_for(made.volume(name).is_dir, "the new volume is there", SECOND)
        engine.docker("volume", "rm", name)
        wait_for(lambda: name not in os.listdir(made.path), "it is not listed any more", SECOND)
        wait_for(lambda: not made.volume(name).exists(), "it is gone", SECOND)


def test_a_name_asked_for_too_early_appears_all_the_same(mount, engine):
    """A lookup that failed is not remembered for longer than a second."""
    made = mount()
    name = f"t{os.getpid()}-early"
    assert fails(os.stat, made.volume(name)) == errno.ENOENT
    engine.volume(name)
    wait_for(made.volume(name).is_dir, "the volume is there", SECOND)


def test_follows_after_a_lost_event_stream(mount, proxy, engine, volume):
    made = mount(proxy)
    gone, name = volume(), f"t{os.getpid()}-late"
    wait_for(made.volume(gone).is_dir, "the volume is there")
    proxy.on("GET /events", Reset())
    proxy.drop()
    engine.volume(name)
    engine.remove_volume(gone)
    proxy.clear()
    wait_for(lambda: name in os.listdir(made.path) and gone not in os.listdir(made.path),
             "the listing is right again", 15)
    later = volume()
    wait_for(lambda: later in os.listdir(made.path), "events come again", 5)


def test_follows_after_a_prune(mount, engine, volume):
    names = [volume(Labels={"prune-me": str(os.getpid())}) for _ in range(3)]
    made = mount()
    assert set(names) <= set(os.listdir(made.path))
    # Since API 1.42 only nameless volumes are pruned by default.
    every = ["--all"] if engine.api_minor() >= 42 else []
    engine.docker("volume", "prune", "-f", *every, "--filter", f"label=prune-me={os.getpid()}")
    wait_for(lambda: not set(names) & set(os.listdir(made.path)), "they are gone", 5)


def test_a_volume_that_goes_while_it_is_looked_at(mount, engine, volume):
    name = volume()
    made = mount()
    fd = os.open(made.volume(name) / "snapshots", os.O_RDONLY)
    engine.remove_volume(name)
    wait_for(lambda: not made.volume(name).exists(), "it is gone", 2)
    assert fails(os.stat, "now.tar", dir_fd=fd) in (errno.ENOENT, errno.ESTALE)
    os.close(fd)
    assert not engine.has_volume(name)


def test_a_thousand_volumes(mount, engine):
    names = {f"t{os.getpid()}-many-{number}" for number in range(1000)}
    for name in names:
        engine.volume(name)
    made = mount()
    assert names <= set(os.listdir(made.path))
    start = time.monotonic()
    listed = subprocess.run(["ls", made.path], capture_output=True, text=True, check=True)
    assert names <= set(listed.stdout.split())
    assert time.monotonic() - start < 1
    subprocess.run(["ls", "-l", made.path], capture_output=True, check=True)
    start = time.monotonic()
    long = subprocess.run(["ls", "-l", made.path], capture_output=True, text=True, check=True)
    assert len(long.stdout.splitlines()) > 1000
    assert time.monotonic() - start < 1


def test_listing_asks_the_engine_for_nothing(mount, proxy, volume):
    """Plain ls, readdir and lookup make no helper and read no volume."""
    name = volume()
    made = mount(proxy)
    proxy.forget()
    rounds = 10
    for _ in range(rounds):
        subprocess.run(["ls", "-R", "--color=never", made.path], check=True, capture_output=True)
        subprocess.run(["ls", "-la", made.path, made.volume(name)], check=True,
                       capture_output=True)
        subprocess.run(["find", made.volume(name), "-name", "*.tar"], check=True,
                       capture_output=True)
    assert proxy.count("POST *") == 0 and proxy.count("* /containers/*/*") == 0
    # What a new mount asks for by itself may come as late as this.
    assert proxy.count("GET /volumes*") < rounds and proxy.count("GET /containers/*") < rounds


@pytest.mark.parametrize("name", ["no-such-volume", ".Trash", ".Trash-0", ".hidden", ".git",
                                  "autorun.inf", "bad name", "x" * 255, "umläut", "a", ".dvolfs2"])
def test_unknown_names_are_enoent_and_create_nothing(mount, engine, name):
    made = mount()
    assert fails(os.stat, made.path / name) == errno.ENOENT
    assert fails(os.listdir, made.path / name) == errno.ENOENT
    assert fails(open, made.path / name / "snapshots/now.tar", "rb") == errno.ENOENT
    assert fails(open, made.path / name / "restore/x.tar", "wb") == errno.ENOENT
    status, answer = engine.api("GET", "/volumes")
    assert status == 200 and name not in [v["Name"] for v in answer["Volumes"] or []]


def test_unknown_names_inside(mount, volume):
    name = volume()
    made = mount()
    for path in ("x", "snapshots/x.tar", "snapshots/then.tar", "restore/x.tar", "snapshots/now"):
        assert fails(os.stat, made.volume(name) / path) == errno.ENOENT
    assert fails(os.stat, made.volume(name) / "volume.json" / "x") == errno.ENOTDIR
    assert fails(os.stat, made.volume("y" * 256)) == errno.ENAMETOOLONG


REFUSALS = {errno.EROFS, errno.EPERM, errno.EACCES, errno.EEXIST, errno.EINVAL, errno.EOPNOTSUPP,
            errno.ENOTEMPTY, errno.EBUSY, errno.EXDEV}


@pytest.mark.parametrize("directory", [".", "VOLUME", "VOLUME/snapshots", ".dvolfs"])
def test_making_things_is_refused(mount, engine, volume, directory):
    name = volume()
    top = mount().path / directory.replace("VOLUME", name)
    before = sorted(os.listdir(top))
    new = top / "new"
    calls = {
        "mkdir": lambda: os.mkdir(new),
        "symlink": lambda: os.symlink("x", new),
        "mknod": lambda: os.mknod(new, 0o600 | stat.S_IFREG),
        "mkfifo": lambda: os.mkfifo(new),
        "mkdev": lambda: os.mknod(new, 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
        "create": lambda: open(new, "xb"),
        "tmpfile": lambda: os.open(top, os.O_TMPFILE | os.O_RDWR, 0o600),
        "setxattr": lambda: os.setxattr(top, "user.x", b"y"),
        "removexattr": lambda: os.removexattr(top, "user.x"),
        "chmod": lambda: os.chmod(top, 0o700 if directory != "VOLUME/snapshots" else 0o755),
        "chown": lambda: os.chown(top, 1, 1),
        "rmdir": lambda: os.rmdir(top),
        "rename": lambda: os.rename(top, top.parent / "renamed"),
    }
    if directory == ".":
        del calls["rmdir"], calls["rename"]     # the kernel answers those for a mountpoint
    answers = {call: fails(function) for call, function in calls.items()}
    wrong = {call: errno.errorcode[number] for call, number in answers.items()
             if number not in REFUSALS | ({errno.ENODATA} if call == "removexattr" else set())}
    assert not wrong
    assert sorted(os.listdir(top)) == before
    assert engine.has_volume(name)


@pytest.mark.parametrize("file", ["VOLUME/volume.json", "VOLUME/snapshots/now.tar",
                                  ".dvolfs/help.txt", ".dvolfs/status.json", ".dvolfs/log"])
def test_changing_things_is_refused(mount, volume, file):
    name = volume()
    path = mount().path / file.replace("VOLUME", name)
    size = path.stat().st_size
    calls = {
        "write": lambda: open(path, "r+b"),
        "append": lambda: open(path, "ab"),
        "overwrite": lambda: open(path, "wb"),
        "truncate": lambda: os.truncate(path, 0),
        "unlink": lambda: os.unlink(path),
        "rename": lambda: os.rename(path, path.parent / "other"),
        "rename out": lambda: os.rename(path, path.parent.parent / "other"),
        "link": lambda: os.link(path, path.parent / "other"),
        "chmod": lambda: os.chmod(path, 0o777),
        "chown": lambda: os.chown(path, 1, 1),
        "utime": lambda: os.utime(path, (1, 1)),
        "setxattr": lambda: os.setxattr(path, "user.x", b"y"),
        "removexattr": lambda: os.removexattr(path, "user.x"),
    }
    answers = {call: fails(function) for call, function in calls.items()}
    wrong = {call: errno.errorcode[number] for call, number in answers.items()
             if number not in REFUSALS | ({errno.ENODATA} if call == "removexattr" else set())}
    assert not wrong
    assert path.exists() and (path.stat().st_size == size or path.name in ("log", "status.json"))


def test_reading_what_is_not_there_to_read(mount, volume):
    name = volume()
    made = mount()
    for path in (made.path, made.volume(name), made.now(name), made.volume(name) / "volume.json"):
        assert fails(os.getxattr, path, "user.nothing") in (errno.ENODATA, errno.EOPNOTSUPP)
        assert fails(os.readlink, path) == errno.EINVAL
        try:
            assert isinstance(os.listxattr(path), list)
        except OSError as failure:
            assert failure.errno == errno.EOPNOTSUPP
    assert fails(open, made.volume(name), "rb") == errno.EISDIR
    assert os.statvfs(made.path).f_namemax >= 255
    subprocess.run(["df", made.path], check=True, capture_output=True)


def test_access_answers(mount, volume):
    name = volume()
    made = mount()
    assert os.access(made.now(name), os.R_OK)
    assert not os.access(made.now(name), os.X_OK)
    assert os.access(made.restore(name), os.W_OK)


def test_volume_json(mount, engine, volume):
    name = volume(Labels={"team": "sales", "quote": 'a "b" \\ \n'})
    other = volume()
    container = engine.start(name, "--name", f"{name}-user")
    reader = engine.start(name, "--name", f"{name}-reader", mode="ro")
    made = mount()
    told = json.loads((made.volume(name) / "volume.json").read_text())
    asked = engine.api("GET", f"/volumes/{name}")[1]
    for key in ("Name", "Driver", "Labels", "Mountpoint", "CreatedAt", "Scope"):
        assert told[key] == asked[key], key
    text = json.dumps(told)
    for id, label in ((container, f"{name}-user"), (reader, f"{name}-reader")):
        assert id[:12] in text and label in text
    assert f"{name}-user" not in (made.volume(other) / "volume.json").read_text()
    engine.remove_container(container)
    wait_for(lambda: f"{name}-user" not in (made.volume(name) / "volume.json").read_text(),
             "volume.json follows", 2)


def test_volume_json_is_what_its_size_says(mount, volume):
    name = volume(Labels={"l": "x" * 5000})
    path = mount().volume(name) / "volume.json"
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        assert os.fstat(file.fileno()).st_size == len(file.read())
    assert size > 5000
    copied = subprocess.run(["tar", "-C", path.parent, "-cO", path.name], capture_output=True,
                            check=True)
    assert b"xxxx" in copied.stdout


def test_dvolfs_directory(mount, engine, volume):
    volume()
    made = mount()
    top = made.path / ".dvolfs"
    assert {"help.txt", "status.json", "log"} <= set(os.listdir(top))
    help_text = (top / "help.txt").read_text()
    assert "now.tar" in help_text and "restore" in help_text and len(help_text.splitlines()) < 60
    status = json.loads((top / "status.json").read_text())
    text = json.dumps(status)
    assert engine.host in text
    assert engine.api("GET", "/version")[1]["Version"] in text
    for name in ("help.txt", "status.json", "log"):
        data = (top / name).read_bytes()
        assert os.stat(top / name).st_size == len(data) or name != "help.txt"
        assert subprocess.run(["cat", top / name], capture_output=True, check=True).stdout


def test_volume_names_of_every_shape(mount, engine, scratch):
    names = [f"t{os.getpid()}{rest}" for rest in (".dot", "_under", "-dash", "A.B_c-d", "x" * 200)]
    for name in names:
        engine.volume(name)
    made = mount()
    assert set(names) <= set(os.listdir(made.path))
    for name in names:
        tree.simple(engine.mountpoint(name))
        assert made.run("cp", made.now(name), scratch / "x.tar").returncode == 0
        assert tree.tar_differences(scratch / "x.tar", engine.mountpoint(name)) == []


def test_volumes_with_options_or_nothing_behind_them(mount, engine, volume):
    """A volume that can't be mounted is shown, and reading it fails with a reason."""
    name = volume(DriverOpts={"type": "ext4", "device": "/dev/nonexistent", "o": "ro"})
    made = mount()
    assert made.volume(name).is_dir()
    assert json.loads((made.volume(name) / "volume.json").read_text())["Options"]["type"] == "ext4"
    assert fails(open, made.now(name), "rb") == errno.EIO
    assert name in made.log()


def test_walking_the_whole_mount(mount, engine, volume, scratch):
    """What indexers and backup tools do: everything is read, nothing breaks."""
    for _ in range(3):
        tree.simple(engine.mountpoint(volume()))
    made = mount()
    assert made.run("grep", "-r", "no such text", made.path).returncode == 1
    done = made.run("tar", "-C", made.path, "--exclude", "./.dvolfs", "-cf", scratch / "all.tar",
                    ".")
    assert done.returncode == 0, done.stderr
    assert made.run("du", "-s", made.path).returncode == 0
