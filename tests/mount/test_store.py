"""The store of kept snapshots: crashes, full disks, several mounts, and much of everything."""
import errno
import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import kept, tree
from harness.command import run
from harness.wait import wait_for


def fill(top, megabytes):
    """Data that compresses a little, in files of all sizes."""
    generator = random.Random(11)
    (top / "d").mkdir(exist_ok=True)
    for number in range(100):
        (top / f"d/f{number}").write_bytes(generator.randbytes(generator.randrange(30_000)))
    for number in range(megabytes):
        block = bytes(generator.choices(range(64), k=1 << 16)) * 16
        (top / f"m{number}").write_bytes(block)


@pytest.fixture
def small(engine, volume):
    name = volume()
    tree.simple(engine.mountpoint(name))
    return name


# Crashes
def end(process):
    try:
        return process.wait(30)
    finally:
        process.kill()


def test_killed_at_any_moment(mount, engine, volume):
    """Each snapshot is there, and whole, or it is not there; left-overs go."""
    name = volume()
    top = engine.mountpoint(name)
    fill(top, 24)
    made = mount()
    begin = time.monotonic()
    kept.take(made, name, "first")
    takes = time.monotonic() - begin
    expected, store = {"first"}, kept.store(made)
    generator, amid, done = random.Random(12), 0, 0
    for turn in range(20):
        tree.write(top / "d/turn", b"%d" % turn)
        if turn % 2:        # now and then all of it is new
            run("touch", *(top / f"m{number}" for number in range(24)))
        process = subprocess.Popen(
            ["touch", kept.path(made, name, f"s{turn}")] if turn % 3 else
            ["mkdir", kept.browse(made, name, f"s{turn}")], stderr=subprocess.DEVNULL)
        threading.Event().wait(generator.uniform(0, takes * (1.2 if turn % 2 else 0.5)))
        made.kill(signal.SIGKILL)
        code = end(process)
        amid += bool(kept.unfinished(made))
        run("umount", "-l", made.path)
        made = mount(None, f"store={store}", path=made.path)
        assert kept.unfinished(made) == []
        found = set(kept.listed(made, name))
        assert expected <= found <= expected | {f"s{turn}"}
        assert code != 0 or f"s{turn}" in found, "it was said to be safe"
        if f"s{turn}" in found:
            done += 1
            kept.assert_kept(made, name, f"s{turn}", top)
            run("sh", "-c", 'zstd -q -dc "$1" | tar -t', "sh", kept.stored(made, name, f"s{turn}"))
        expected = found
    assert amid >= 3, "it was killed while it made one"
    kept.take(made, name, "last")
    kept.assert_kept(made, name, "last", top)
    for snapshot in expected:
        run("zstd", "-q", "-t", kept.stored(made, name, snapshot))


def test_a_crash_between_the_two_files(mount, engine, small):
    """An index without its archive, or beside another one, counts for nothing."""
    made = mount()
    top = engine.mountpoint(small)
    kept.take(made, small, "a")
    shutil.copy(kept.index(made, small, "a"), kept.index(made, small, "b"))
    assert kept.listed(made, small) == ["a"]
    assert not kept.browse(made, small, "b").exists()
    tree.write(top / "new", b"new")
    kept.take(made, small, "b")
    kept.assert_kept(made, small, "b", top)
    shutil.copy(kept.index(made, small, "a"), kept.index(made, small, "c"))
    os.rename(kept.path(made, small, "b"), kept.path(made, small, "c"))
    assert kept.listed(made, small) == ["a", "c"]
    kept.assert_kept(made, small, "c", top)


def test_left_overs_go_at_the_next_mount(mount, small):
    """But for those that somebody still makes."""
    made = mount()
    kept.take(made, small, "a")
    new = kept.store(made) / ".new"
    (new / "left").write_bytes(b"over")
    with open(new / "being-made", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        again = mount(None, f"store={kept.store(made)}")
        assert os.listdir(new) == ["being-made"]
        assert kept.listed(again, small) == ["a"]


# Full disks
def test_a_full_disk(mount, engine, volume, small, scratch):
    """ENOSPC, and nothing stays; what was there is as it was, and room that is made counts."""
    disk, spool = scratch / "disk", scratch / "spool"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk)
    name = volume()
    tree.write(engine.mountpoint(name) / "much", random.Random(13).randbytes(15_000_000))
    made = mount(None, f"store={disk}", f"spool={spool}")
    kept.take(made, small, "a")
    archive = tree.pack(engine.mountpoint(name), scratch / "x.tar")
    for _ in range(3):
        for command in (["touch", kept.path(made, name, "b")],
                        ["mkdir", kept.browse(made, name, "b")],
                        ["cp", archive, kept.path(made, name, "b")]):
            done = made.run(*command)
            assert done.returncode != 0 and os.strerror(errno.ENOSPC) in done.stderr, command
            assert kept.listed(made, name) == [] and kept.unfinished(made) == []
        assert f"{name}/" in made.log()
        kept.assert_kept(made, small, "a", engine.mountpoint(small))
    os.truncate(engine.mountpoint(name) / "much", 1_000_000)
    kept.take(made, name, "b")
    kept.assert_kept(made, name, "b", engine.mountpoint(name))
    made.umount()


def test_a_store_that_cannot_be_written(mount, engine, small, scratch):
    disk, spool = scratch / "disk", scratch / "spool"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", disk)
    made = mount(None, f"store={disk}", f"spool={spool}")
    kept.take(made, small, "a")
    run("mount", "-o", "remount,ro", disk)
    done = made.run("touch", kept.path(made, small, "b"))
    assert done.returncode != 0 and os.strerror(errno.EROFS) in done.stderr
    assert made.run("rm", "-f", kept.path(made, small, "a")).returncode != 0
    kept.assert_kept(made, small, "a", engine.mountpoint(small))
    made.umount()


# Several mounts of one store
@pytest.fixture
def two(mount):
    one = mount()
    return one, mount(None, f"store={kept.store(one)}")


def test_two_mounts_share_a_store(two, engine, small):
    """What one does the other sees."""
    one, other = two
    top = engine.mountpoint(small)
    kept.take(one, small, "a")
    assert kept.listed(other, small) == ["a"]
    kept.assert_kept(other, small, "a", top)
    os.rename(kept.path(other, small, "a"), kept.path(other, small, "b"))
    assert kept.listed(one, small) == ["b"]
    kept.assert_kept(one, small, "b", top)
    os.unlink(kept.path(one, small, "b"))
    assert kept.listed(other, small) == []
    assert kept.refusal(os.stat, kept.path(other, small, "b")) == "ENOENT"
    tree.write(top / "new", b"new")
    kept.take(one, small, "b")          # another one of the same name
    assert (kept.browse(other, small, "b") / "new").read_bytes() == b"new"
    assert kept.path(other, small, "b").read_bytes() == kept.path(one, small, "b").read_bytes()


def test_one_name_in_two_mounts_at_once(two, engine, small):
    for turn in range(6):
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(
                lambda made: made.run("touch", kept.path(made, small, f"s{turn}")), two))
        assert sorted(one.returncode for one in done) == [0, 1], [one.stderr for one in done]
        kept.assert_kept(two[turn % 2], small, f"s{turn}", engine.mountpoint(small))


def test_an_index_is_made_in_two_mounts_at_once(two, engine, small):
    for turn in range(4):
        name = f"s{turn}"
        kept.take(two[0], small, name)
        kept.index(two[0], small, name).unlink()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(
                lambda made: (kept.browse(made, small, name) / "conf/app.conf").read_bytes(),
                two * 2))
        assert set(found) == {b"port = 8080\n"}
        assert kept.index(two[0], small, name).exists()
        kept.assert_kept(two[1], small, name, engine.mountpoint(small))
    assert kept.unfinished(two[0]) == []


# Deleting and renaming what is in use
@pytest.mark.parametrize("do", ["rm", "rmdir", "mv", "other mount"])
def test_whoever_reads_goes_on(two, engine, volume, scratch, do):
    name = volume()
    data = random.Random(14).randbytes(8_000_000)
    tree.write(engine.mountpoint(name) / "file", data)
    made, other = two
    wait_for(lambda: made.volume(name).exists() and other.volume(name).exists(), "it appears")
    archive = kept.take(made, name, "a")
    whole = archive.read_bytes()
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECT)
           for path in (archive, kept.browse(made, name, "a") / "file")]
    assert [os.preadv(fd, [bytearray(4096)], 0) for fd in fds] == [4096, 4096]
    {"rm": lambda: os.unlink(archive), "rmdir": lambda: os.rmdir(kept.browse(made, name, "a")),
     "mv": lambda: os.rename(archive, kept.path(made, name, "b")),
     "other mount": lambda: os.unlink(kept.path(other, name, "a"))}[do]()
    kept.take(made, name, "a")          # the name stands for another one now
    for fd, expected in zip(fds, (whole, data)):
        found = b""
        buffer = bytearray(1 << 20)
        while count := os.preadv(fd, [buffer], len(found)):
            found += buffer[:count]
        assert found == expected
        os.close(fd)


@pytest.mark.parametrize("do", ["rm", "mv", "other mount"])
def test_a_name_that_stands_for_another_now(two, engine, volume, do):
    """Who is in a directory of the one that had it gets nothing of the one that has it."""
    name, names = volume(), "abcdef"
    top = engine.mountpoint(name)
    (top / "sub").mkdir()
    for file in names:
        tree.write(top / "sub" / file, file.encode())
    made, other = two
    wait_for(lambda: made.volume(name).exists() and other.volume(name).exists(), "it appears")
    archive = kept.take(made, name, "a")
    there = os.open(kept.browse(made, name, "a") / "sub", os.O_RDONLY | os.O_DIRECTORY)
    {"rm": lambda: os.unlink(archive),
     "mv": lambda: os.rename(archive, kept.path(made, name, "b")),
     "other mount": lambda: os.unlink(kept.path(other, name, "a"))}[do]()
    tree.write(top / "sub/0", b"first of all")      # all others have other numbers now
    kept.take(made, name, "a")
    try:
        assert set(os.listdir(there)) <= set(names)
    except OSError as failure:
        assert failure.errno in (errno.ESTALE, errno.ENOENT)
    for file in names:
        try:
            fd = os.open(file, os.O_RDONLY, dir_fd=there)
        except OSError as failure:
            assert failure.errno in (errno.ESTALE, errno.ENOENT)
            continue
        assert os.read(fd, 100) == file.encode()
        os.close(fd)
    os.close(there)
    assert (kept.browse(made, name, "a") / "sub/0").read_bytes() == b"first of all"


# Much of everything
def test_twelve_thousand_files(mount, engine, volume):
    name = volume()
    top = engine.mountpoint(name)
    for directory in range(60):
        (top / f"d{directory}").mkdir()
        for file in range(200):
            (top / f"d{directory}/file-{file}").write_bytes(b"%d" % file * (file % 30))
    made = mount()
    kept.take(made, name, "a")
    kept.take(made, name, "b")
    kept.assert_kept(made, name, "b", top)
    assert int(run("sh", "-c", 'find "$1" -type f | wc -l', "sh",
                   kept.browse(made, name, "a")).stdout) == 12_000
    if not made.has_sanitizer():
        assert made.status_kb("VmHWM") < 250_000
    kept.index(made, name, "a").unlink()
    made.umount()
    again = mount(None, f"store={kept.store(made)}")
    assert len(os.listdir(kept.browse(again, name, "a") / "d7")) == 200
    if not again.has_sanitizer():
        assert again.status_kb("VmHWM") < 250_000


def calls(made, *command):
    """How often the daemon opens, looks at and reads files meanwhile."""
    trace = made.home / "trace"
    tracer = subprocess.Popen(["strace", "-f", "-c", "-o", trace, "-p", str(made.pid)],
                              stderr=subprocess.PIPE, text=True)
    assert "attached" in tracer.stderr.readline()
    run(*command)
    tracer.send_signal(signal.SIGINT)
    tracer.communicate()
    counted = {words[-1]: int(words[3]) for line in trace.read_text().splitlines()
               if len(words := line.split()) in (5, 6) and words[3].isdigit()}
    return [sum(counted.get(call, 0) for call in kind) for kind in (
        ("openat", "open", "openat2"), ("newfstatat", "statx", "fstat", "stat"), ("pread64",))]


def test_thousands_of_snapshots(mount, engine, small):
    """A listing asks the disk for what it shows, and nothing is kept of it."""
    (engine.mountpoint(small) / "data.bin").unlink()
    (engine.mountpoint(small) / "data.link").unlink()
    made = mount()
    kept.take(made, small, "a")
    directory, data = kept.store(made) / small, kept.stored(made, small, "a").read_bytes()
    made.umount()
    for number in range(3000):
        (directory / f"s{number}.tar.zst").write_bytes(data)
        (directory / f"s{number}.index").touch()
    made = mount(None, f"store={kept.store(made)}")
    before = made.status_kb("VmRSS")
    assert len(kept.listed(made, small)) == 3001
    assert max(calls(made, "/bin/ls", kept.path(made, small, "a").parent)) < 20
    opens, looks, reads = calls(made, "/bin/ls", "-l", kept.path(made, small, "a").parent)
    assert opens < 9500 and looks < 9500 and reads < 500        # ls asks for each three times
    descriptors = made.descriptors()
    run("sh", "-c", 'cat "$1"/s1*.tar.zst >/dev/null', "sh", kept.path(made, small, "a").parent)
    assert made.descriptors() < descriptors + 20
    for number in range(100):       # each has its index made, and none stays open for ever
        assert os.listdir(kept.browse(made, small, f"s{number}"))
    assert made.descriptors() < descriptors + 250
    if not made.has_sanitizer():
        assert made.status_kb("VmRSS") < before + 100_000
    kept.take(made, small, "new")
    os.unlink(kept.path(made, small, "s5"))
    assert len(kept.listed(made, small)) == 3001


def test_a_large_sparse_file(mount, engine, volume):
    """Of 100 GiB: it takes no time, no room and no memory to speak of."""
    name, size = volume(), 100 << 30
    top = engine.mountpoint(name)
    tree.scattered(top / "sparse", (0, 7 << 30, (99 << 30) + 12_345), size)
    made = mount()
    archive = kept.take(made, name, "a")
    assert archive.stat().st_size < 1_000_000
    browse = kept.browse(made, name, "a") / "sparse"
    assert browse.stat().st_size == size
    assert browse.stat().st_blocks == (top / "sparse").stat().st_blocks
    assert tree.runs(browse) == tree.runs(top / "sparse")
    with open(browse, "rb") as file:
        for offset in (0, 7 << 30, (99 << 30) + 12_345):
            file.seek(offset)
            assert file.read(8) == b"data at "
        file.seek(50 << 30)
        assert file.read(1 << 20) == bytes(1 << 20)
    listing = run("sh", "-c", 'zstd -q -dc "$1" | tar -tvf -', "sh", kept.stored(made, name, "a"))
    assert re.search(rf" {size} .*\./sparse", listing.stdout.decode())
    assert made.has_sanitizer() or made.status_kb("VmHWM") < 200_000


def test_memory_over_many_snapshots(mount, engine, small):
    """Taking, looking and deleting again and again keeps nothing."""
    made = mount()
    top = engine.mountpoint(small)
    def turn(number):
        (top / "data.bin").write_bytes(random.Random(number).randbytes(400_000))
        kept.take(made, small, "s")
        assert (kept.browse(made, small, "s") / "data.bin").stat().st_size == 400_000
        (kept.browse(made, small, "s") / "data.bin").read_bytes()
        os.unlink(kept.path(made, small, "s"))
    for number in range(40):
        turn(number)
    before, descriptors = made.status_kb("VmRSS"), made.descriptors()
    for number in range(80):
        turn(number)
    assert made.descriptors() <= descriptors + 5
    assert made.has_sanitizer() or made.status_kb("VmRSS") < before + 30_000
    assert sorted(os.listdir(kept.store(made) / small)) == []
