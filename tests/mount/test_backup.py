"""Backup: whatever reads now.tar gets the same complete bytes, and they are the volume."""
import errno
import hashlib
import io
import mmap
import os
import shutil
import stat
import subprocess
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import tree
from harness.command import run
from harness.proxy import Cut, Reset, SilentCut, Stall, Status
from harness.wait import wait_for


def cat(source, target):
    with open(target, "wb") as file:
        subprocess.run(["cat", source], stdout=file, check=True)


def dd(*options):
    return lambda source, target: run("dd", f"if={source}", f"of={target}", "status=none", *options)


def mapped(source, target):
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        target.write_bytes(view[:])


def sent(source, target):
    with open(source, "rb") as file, open(target, "wb") as out:
        while os.sendfile(out.fileno(), file.fileno(), None, 1 << 20):
            pass


def backwards(source, target):
    size = os.stat(source).st_size
    with open(source, "rb") as file, open(target, "wb") as out:
        for offset in reversed(range(0, size, 10_000)):
            out.seek(offset)
            out.write(os.pread(file.fileno(), 10_000, offset))


def tarred(source, target):
    archive = run("tar", "-C", source.parent, "-cf", "-", source.name).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        target.write_bytes(tar.extractfile(source.name).read())


TOOLS = {
    "cp": lambda source, target: run("cp", source, target),
    "cp -a": lambda source, target: run("cp", "-a", source, target),
    "cat": cat,
    "dd": dd("bs=64k"),
    "dd small": dd("bs=777"),
    "dd direct": dd("bs=1M", "iflag=direct"),
    "rsync": lambda source, target: run("rsync", "-t", source, target),
    "gio": lambda source, target: run("gio", "copy", source, target),
    "busybox cp": lambda source, target: run("busybox", "cp", source, target),
    "busybox cat": lambda source, target: run("sh", "-c", 'busybox cat "$1" >"$2"', "sh", source,
                                              target),
    "shutil": lambda source, target: shutil.copy(source, target),
    "install": lambda source, target: run("install", "-m", "600", source, target),
    "tar": tarred,
    "mmap": mapped,
    "sendfile": sent,
    "backwards": backwards,
}


@pytest.fixture
def filled(engine, volume):
    """A volume with every kind of file, all times in whole seconds."""
    name = volume()
    tree.everything(engine.mountpoint(name))
    tree.whole_seconds(engine.mountpoint(name))
    return name


def test_every_tool_gets_the_same_bytes(mount, engine, filled, scratch):
    made = mount()
    size = os.stat(made.now(filled)).st_size
    first = made.now(filled).read_bytes()
    assert len(first) == size
    wrong = []
    for tool, copy in TOOLS.items():
        target = scratch / "copy.tar"
        copy(made.now(filled), target)
        if target.read_bytes() != first:
            wrong.append(tool)
        target.unlink()
    assert not wrong
    assert tree.tar_differences(made.now(filled), engine.mountpoint(filled)) == []


def test_the_size_is_exact_however_it_is_asked(mount, engine, volume):
    for filling in ("", "echo x > a", "dd if=/dev/zero of=b bs=1000 count=777", "mkdir -p a/b/c/d"):
        name = volume()
        if filling:
            subprocess.run(["sh", "-c", filling], cwd=engine.mountpoint(name), check=True,
                           stderr=subprocess.DEVNULL)
        made = mount()
        now = made.now(name)
        by_name = os.stat(now).st_size
        with open(now, "rb") as file:
            by_handle = os.fstat(file.fileno()).st_size
            data = file.read()
            assert file.read() == b""
            assert file.seek(0, os.SEEK_END) == by_handle
        listed = [entry.stat().st_size for entry in os.scandir(now.parent)]
        assert {by_name, by_handle, *listed} == {len(data)}
        assert os.stat(now).st_blocks * 512 >= len(data)
        assert int(run("wc", "-c", now).stdout.split()[0]) == len(data)
        made.umount()


def test_the_archive_is_the_volume(mount, engine, filled, scratch):
    """Extracted by root, it is the same tree: owners, modes, links, devices, the root's own."""
    made = mount()
    out = scratch / "out"
    out.mkdir()
    run("tar", "-C", out, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf",
        made.now(filled))
    tree.assert_same(engine.mountpoint(filled), out)


def test_other_tars_read_it(mount, engine, volume, scratch):
    name = volume()
    tree.simple(engine.mountpoint(name))
    tree.whole_seconds(engine.mountpoint(name))
    made = mount()
    for number, extract in enumerate((["bsdtar", "-xpf"], ["busybox", "tar", "-xpf"])):
        out = scratch / str(number)
        out.mkdir()
        run(*extract, made.now(name), "-C", out)
        one, other = tree.describe(engine.mountpoint(name)), tree.describe(out)
        for facts in (*one.values(), *other.values()):
            if facts["type"] != stat.S_IFREG:
                del facts["mtime"]      # they do not set all of these
        tree.assert_same(one, other)


def test_form_of_the_archive(mount, engine, filled):
    """`./` first, names in a stable order, two zero blocks last."""
    made = mount()
    names = run("tar", "tf", made.now(filled)).stdout.splitlines()
    assert names[0] == b"./"
    assert all(name.startswith(b"./") for name in names)
    data = made.now(filled).read_bytes()
    assert data[-1024:] == bytes(1024)
    assert run("tar", "tf", made.now(filled)).stdout.splitlines() == names
    assert run("tar", "tvf", made.now(filled)).stdout


def test_docker_cp_takes_it(mount, engine, filled, volume):
    made = mount()
    target = volume()
    container = engine.start(target)
    with open(made.now(filled), "rb") as archive:
        engine.docker("cp", "-", f"{container}:/v", stdin=archive)
    one, other = (tree.describe(engine.mountpoint(name)) for name in (filled, target))
    del one[b"."], other[b"."]          # docker cp leaves the root alone
    tree.assert_same(one, other)


@pytest.mark.access("api")
def test_what_the_api_way_leaves_out_is_no_more_than_is_said(mount, engine, volume, scratch):
    """Sockets, attributes and fractions of a second go; the rest is there."""
    name = volume()
    tree.simple(engine.mountpoint(name))
    tree.with_socket(engine.mountpoint(name))
    made = mount()
    run("cp", made.now(name), scratch / "x.tar")
    out = scratch / "out"
    out.mkdir()
    run("tar", "-C", out, "-xpf", scratch / "x.tar")
    tree.assert_same(engine.mountpoint(name), out)
    assert not (out / "socket").exists()


def test_paths_beyond_path_max_are_not_lost_in_silence(mount, engine, volume, scratch):
    """A path of more than 4096 bytes is in the archive, or the copy fails, or it is told."""
    name = volume()
    tree.deep(os.fsencode(engine.mountpoint(name)), 30, b"d" * 200)
    made = mount()
    done = made.run("cp", made.now(name), scratch / "x.tar")
    inside = done.returncode == 0 and b"/bottom" in run("tar", "tf", scratch / "x.tar").stdout
    if made.access(name) == "api":
        assert inside or done.returncode != 0 or name in made.log()
    else:
        assert inside


def test_mtime_is_the_newest_change(mount, engine, volume):
    """The newest ctime; the engine's archive has none, but mtimes."""
    name = volume()
    top = engine.mountpoint(name)
    tree.simple(top)
    tree.whole_seconds(top)
    made = mount()
    def newest():
        return max(int(status.st_mtime if made.access(name) == "api" else status.st_ctime)
                   for status in map(os.lstat, (top, *top.rglob("*"))))
    assert int(os.stat(made.now(name)).st_mtime) == newest()
    later = int(time.time()) + 1000
    os.utime(top / "conf/app.conf", (later, later))
    wait_for(lambda: int(os.stat(made.now(name)).st_mtime) == newest(), "mtime follows", 15)


@pytest.mark.access("local", "agent", "agent-stream")
def test_mtime_follows_what_leaves_no_newer_mtime(mount, engine, volume):
    """A file that is put in with its old time, and another mode, are changes; and a file
    whose time is in the future hides none."""
    name = volume()
    top = engine.mountpoint(name)
    tree.simple(top)
    os.utime(top / "conf/app.conf", (2_000_000_000, 2_000_000_000))
    made = mount()
    for change in (lambda: os.chmod(top / "data.bin", 0o600),
                   lambda: os.utime(top / "data.bin", (1_000_000_000, 1_000_000_000)),
                   lambda: run("cp", "-a", top / "data.bin", top / "copy")):
        before = os.stat(made.now(name)).st_mtime_ns
        change()
        wait_for(lambda before=before: os.stat(made.now(name)).st_mtime_ns > before,
                 "mtime follows", 15)


def test_rsync_sends_an_unchanged_volume_once(mount, engine, filled, scratch):
    made = mount()
    def sync():
        return run("rsync", "-t", "--itemize-changes", made.now(filled), scratch / "x.tar").stdout
    assert sync().startswith(b">f")
    assert sync() == b""
    (engine.mountpoint(filled) / "new").write_bytes(b"news")
    wait_for(lambda: sync().startswith(b">f"), "the change is sent", 15)
    assert b"./new" in run("tar", "tf", scratch / "x.tar").stdout.splitlines()
    assert sync() == b""


def test_rsync_of_the_whole_mount(mount, engine, filled, scratch):
    made = mount()
    arguments = ["rsync", "-rt", "--exclude", "/.dvolfs", "--itemize-changes", f"{made.path}/",
                 scratch / "all"]
    def sent():
        return [line for line in run(*arguments).stdout.splitlines() if line.startswith(b">f")]
    assert sent()
    assert not sent()
    assert (scratch / "all" / filled / "snapshots/now.tar").read_bytes() == \
        made.now(filled).read_bytes()


def test_without_a_cache(mount, engine, filled, scratch):
    """A tool that asks for the size and then opens still gets one and the same file."""
    made = mount(None, "cache=0")
    for tool in ("cp", "rsync", "gio"):
        TOOLS[tool](made.now(filled), scratch / f"{tool}.tar")
        assert tree.tar_differences(scratch / f"{tool}.tar", engine.mountpoint(filled)) == []


def test_a_change_is_in_the_next_copy(mount, engine, volume, scratch):
    name = volume()
    made = mount()
    for number in range(5):
        engine.run(name, f"echo {number} > number; sync")
        copy = scratch / f"{number}.tar"
        wait_for(lambda: run("cp", made.now(name), copy) and f"{number}\n".encode()
                 == run("tar", "xOf", copy, "./number").stdout, "the change is seen", 3)


def test_an_opened_archive_is_one_moment(mount, engine, volume, scratch):
    """Names and sizes are those of its beginning; by the engine's archive, bytes too."""
    name = volume()
    top = engine.mountpoint(name)
    (top / "file").write_bytes(b"old" * 3_000_000)
    made = mount()
    with open(made.now(name), "rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        start = opened.read(100_000)
        (top / "file").write_bytes(b"newer" * 3_000_000)
        (top / "another").write_bytes(b"x" * 100_000)
        wait_for(lambda: os.stat(made.now(name)).st_size != size, "the name has moved on", 15)
        rest = opened.read()
        assert os.fstat(opened.fileno()).st_size == size == len(start) + len(rest)
    (scratch / "x.tar").write_bytes(start + rest)
    assert run("tar", "tf", scratch / "x.tar").stdout.splitlines() == [b"./", b"./file"]
    packed = run("tar", "xOf", scratch / "x.tar", "./file").stdout
    assert len(packed) == 9_000_000
    if made.access(name) == "api":
        assert packed == b"old" * 3_000_000
    else:
        assert packed.startswith(b"old" * 30_000)
    assert run("tar", "xOf", made.now(name), "./file").stdout == b"newer" * 3_000_000


@pytest.mark.access("local")
def test_nothing_is_spooled_and_no_container_made(mount, proxy, engine, volume, scratch):
    name = volume()
    tree.everything(engine.mountpoint(name))
    made = mount(proxy)
    proxy.forget()
    with open(made.now(name), "rb") as opened:
        assert len(opened.read()) == os.fstat(opened.fileno()).st_size
        assert not made.spooled()
    assert list((made.home / "store" / ".spool").iterdir()) == []
    assert proxy.count("* /containers/*/*") == 0 == proxy.count("POST *")


@pytest.mark.access("local", "agent", "agent-stream")
def test_two_copies_of_an_unchanged_volume_are_the_same(mount, engine, filled):
    """To the byte, by another mount too."""
    first = mount()
    data = first.now(filled).read_bytes()
    os.stat(first.now(filled))
    assert first.now(filled).read_bytes() == data
    first.umount()
    assert mount().now(filled).read_bytes() == data


def test_two_readers_at_once(mount, engine, filled, scratch):
    made = mount()
    with open(made.now(filled), "rb") as one, open(made.now(filled), "rb") as other:
        a, b = hashlib.sha256(), hashlib.sha256()
        while True:
            left, right = one.read(50_000), other.read(50_000)
            a.update(left)
            b.update(right)
            if not left and not right:
                break
    assert a.digest() == b.digest() == hashlib.sha256(made.now(filled).read_bytes()).digest()


def test_many_volumes_at_once(mount, engine, volume, scratch):
    names = [volume() for _ in range(12)]
    for number, name in enumerate(names):
        tree.simple(engine.mountpoint(name))
        (engine.mountpoint(name) / "number").write_text(str(number))
        tree.whole_seconds(engine.mountpoint(name))
    made = mount()
    def copy(number):
        name, target = names[number % 12], scratch / f"{number}.tar"
        run("cp", made.now(name), target)
        return tree.tar_differences(target, engine.mountpoint(name))
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(copy, range(36))) == [[]] * 36
    engine.wait_no_helpers()


def test_a_writer_does_not_break_the_archive(mount, engine, volume, scratch):
    """Files that grow, shrink, come and go while we read: well-formed or an error, never less."""
    name = volume()
    engine.start(name, script="""
        mkdir -p d; i=0
        while :; do
            i=$((i+1)); dd if=/dev/zero of=/v/grow bs=1000 count=$((i % 1000)) 2>/dev/null
            echo $i > /v/d/$((i % 50)); rm -f /v/d/$(((i + 25) % 50))
        done""")
    (engine.mountpoint(name) / "zz-last").write_bytes(b"here")
    made = mount()
    outcomes = []
    for _ in range(20):
        done = made.run("cp", made.now(name), scratch / "x.tar")
        outcomes.append(done.returncode)
        if done.returncode == 0:
            assert b"./zz-last" in run("tar", "tf", scratch / "x.tar").stdout.splitlines()
        else:
            assert "Input/output error" in done.stderr and name in made.log()
    assert 0 in outcomes
    assert made.access(name) == "api" or not any(outcomes)


# Errors of the engine reach the reader.
READERS = {
    "cp": ["cp", "SOURCE", "TARGET"],
    "cat": ["sh", "-c", 'cat "$0" >"$1"', "SOURCE", "TARGET"],
    "rsync": ["rsync", "-t", "SOURCE", "TARGET"],
    "gio": ["gio", "copy", "SOURCE", "TARGET"],
    "tar": ["tar", "tf", "SOURCE"],
    "shutil": ["python3", "-c", "import shutil, sys; shutil.copyfile(*sys.argv[1:])", "SOURCE",
               "TARGET"],
    "busybox": ["busybox", "cp", "SOURCE", "TARGET"],
}


def read_fails(made, name, scratch, readers=READERS):
    """Every tool fails on now.tar, and says why."""
    for tool in readers:
        target = scratch / f"{tool}.out"
        done = made.run(*[{"SOURCE": made.now(name), "TARGET": target}.get(word, word)
                          for word in READERS[tool]])
        assert done.returncode != 0, f"{tool} took it for whole"
        assert "nput/output error" in done.stderr, f"{tool}: {done.stderr}"


@pytest.mark.access("api")
@pytest.mark.parametrize("missing", [1, 512, 1024, 1025, 2000, 100_000])
def test_a_cut_that_the_engine_does_not_tell(mount, proxy, engine, volume, scratch, missing):
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount(proxy)
    proxy.on("GET */archive", SilentCut(missing))
    read_fails(made, name, scratch, READERS if missing == 1024 else ["cp"])
    assert name in made.log()
    proxy.clear()
    assert made.run("cp", made.now(name), scratch / "x.tar").returncode == 0
    assert tree.tar_differences(scratch / "x.tar", engine.mountpoint(name)) == []


@pytest.mark.access("api")
@pytest.mark.parametrize("harm", [Cut(0), Cut(5000), Cut(200_000), Reset(), Status(500, "no such"),
                                  Status(404, "no such container")],
                         ids=["cut0", "cut5000", "cut200000", "reset", "500", "404"])
def test_a_cut_that_shows(mount, proxy, engine, volume, scratch, harm):
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount(proxy)
    proxy.on("GET */archive", harm)
    assert made.run("cp", made.now(name), scratch / "x.tar").returncode != 0
    assert name in made.log()
    proxy.clear()
    assert made.run("cp", made.now(name), scratch / "x.tar").returncode == 0
    assert tree.tar_differences(scratch / "x.tar", engine.mountpoint(name)) == []


@pytest.mark.parametrize("request_", ["POST */containers/create", "POST */images/create",
                                      "DELETE /containers/*", "GET /volumes/*"])
def test_every_step_may_fail(mount, proxy, engine, volume, scratch, request_):
    """An error at any request is an error or a success, never a hang or a wrong archive."""
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount(proxy)
    proxy.on(request_, Status(500, "out of order"), times=3)
    done = made.run("cp", made.now(name), scratch / "x.tar")
    if done.returncode == 0:
        assert tree.tar_differences(scratch / "x.tar", engine.mountpoint(name)) == []
    else:
        assert name in made.log()
    proxy.clear()
    assert made.run("cp", made.now(name), scratch / "x.tar").returncode == 0


def test_a_volume_that_vanishes_is_not_made_again(mount, proxy, engine, volume):
    """The helper's mount would create a volume that is gone: it must not."""
    name = volume()
    made = mount()
    fd = os.open(made.volume(name) / "snapshots", os.O_RDONLY)
    engine.remove_volume(name)
    with pytest.raises(OSError) as failure:
        os.open("now.tar", os.O_RDONLY, dir_fd=fd)
    assert failure.value.errno in (errno.ENOENT, errno.ESTALE)
    os.close(fd)
    assert not engine.has_volume(name)


# Helpers
@pytest.mark.access("api")
def test_helpers_are_labelled_offline_and_soon_gone(mount, proxy, engine, volume):
    name = volume()
    tree.simple(engine.mountpoint(name))
    stall = proxy.on("GET */archive", Stall())
    made = mount(proxy)
    reader = threading.Thread(target=lambda: made.now(name).read_bytes(), daemon=True)
    reader.start()
    assert stall.reached.wait(20)
    helper, = engine.helpers()
    facts = engine.api("GET", f"/containers/{helper}/json")[1]
    assert facts["State"]["Status"] == "created"
    assert facts["HostConfig"]["NetworkMode"] == "none"
    assert [mounted["Name"] for mounted in facts["Mounts"]] == [name]
    stall.release()
    reader.join(20)
    assert not reader.is_alive()
    engine.wait_no_helpers()
    assert proxy.count("POST */start") == 0
    assert proxy.count("POST /images/create") <= 1


def test_an_empty_volume_stays_as_it_is(mount, engine, volume):
    """Reading copies nothing up into it, and changes neither owner nor mode."""
    name = volume()
    top = engine.mountpoint(name)
    os.chown(top, 1234, 1234)
    os.chmod(top, 0o711)
    before = tree.describe(top, exact=True)
    made = mount()
    names = run("tar", "tvf", made.now(name)).stdout.splitlines()
    assert len(names) == 1 and b"1234/1234" in names[0] and b"drwx--x--x" in names[0]
    tree.assert_same(before, tree.describe(top, exact=True), exact=True)


def test_a_volume_can_be_removed_after_it_was_read(mount, engine, volume):
    name = volume()
    made = mount()
    made.now(name).read_bytes()
    wait_for(lambda: engine.api("DELETE", f"/volumes/{name}")[0] == 204,
             "no helper holds the volume", 10)
    engine.volumes.remove(name)


def test_reading_in_use_volumes(mount, engine, volume, scratch):
    name = volume()
    tree.simple(engine.mountpoint(name))
    container = engine.start(name)
    engine.docker("pause", container)
    made = mount()
    assert made.run("cp", made.now(name), scratch / "x.tar").returncode == 0
    assert tree.tar_differences(scratch / "x.tar", engine.mountpoint(name)) == []
    assert engine.api("GET", f"/containers/{container}/json")[1]["State"]["Paused"]


def test_mode_of_the_archive_is_private(mount, engine, volume):
    name = volume()
    assert stat.S_IMODE(os.stat(mount().now(name)).st_mode) & 0o077 == 0
