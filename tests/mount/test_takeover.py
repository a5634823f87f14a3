"""What did not change since the last snapshot is not read again; what did always is."""
import ctypes
import errno
import mmap
import os
import random
import re
import shutil
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import kept, tree
from harness.command import run
from harness.wait import wait_for

RECENT = 2.1    # seconds, in which a file may change without that being seen by its times


def fill(top):
    """Some files of each size, so that there are groups that a change does not touch."""
    generator = random.Random(5)
    for directory in range(6):
        (top / f"d{directory}").mkdir()
        for file in range(30):
            tree.write(top / f"d{directory}/f{file}", generator.randbytes(
                generator.choice((100, 5000, 40_000, 60_000))))
    tree.write(top / "large", generator.randbytes(3_500_000))


def settled(top):
    """Wait until nothing in the volume is so new that it must be read again."""
    def newest():
        return max(os.lstat(os.path.join(path, name)).st_ctime
                   for path, directories, files in os.walk(top) for name in directories + files)
    wait_for(lambda: time.time() > newest() + RECENT, "the last change is a while ago")


def groups(made, name):
    """(how many were taken over, how many there are) of a snapshot, by the log."""
    found = re.findall(rf"/{name}\.tar\.zst: taken: \d+ bytes; (\d+) of (\d+) groups", made.log())
    return tuple(map(int, found[-1]))


@pytest.fixture
def filled(engine, volume):
    name = volume()
    fill(engine.mountpoint(name))
    settled(engine.mountpoint(name))
    return name


class Pair:
    """Two mounts: one has earlier snapshots, the other never."""

    def __init__(self, mount, engine, name):
        self.one, self.fresh = mount(), mount()
        self.name, self.top = name, engine.mountpoint(name)
        self.count = 0

    def take(self):
        """Take one in each, which must be the same; how much was taken over."""
        name = f"s{self.count}"
        self.count += 1
        kept.take(self.one, self.name, name)
        kept.take(self.fresh, self.name, name)
        assert groups(self.fresh, name)[0] == 0
        same = run("cmp", kept.stored(self.one, self.name, name),
                   kept.stored(self.fresh, self.name, name), check=False)
        assert same.returncode == 0, same.stdout
        kept.assert_kept(self.one, self.name, name, self.top)
        os.unlink(kept.path(self.fresh, self.name, name))
        return groups(self.one, name)


@pytest.fixture
def pair(mount, engine, filled):
    return Pair(mount, engine, filled)


@pytest.mark.parametrize("access", ["local", "agent"])
def test_nothing_changed(mount, engine, filled, access):
    """All is taken over, and the file is the same, byte for byte."""
    made = mount(None, f"access={access}")
    kept.take(made, filled, "a")
    kept.take(made, filled, "b")
    assert kept.path(made, filled, "a").read_bytes() == kept.path(made, filled, "b").read_bytes()
    taken, count = groups(made, "b")
    assert taken == count > 5
    kept.assert_kept(made, filled, "b", engine.mountpoint(filled))
    made.umount()               # nor is it known by the mount alone
    again = mount(None, f"access={access}", f"store={kept.store(made)}")
    kept.take(again, filled, "c")
    assert groups(again, "c") == (count, count)


def test_what_was_not_changed_is_not_read(mount, engine, filled):
    made = mount()
    kept.take(made, filled, "a")
    top = engine.mountpoint(filled)
    tree.write(top / "d3/f7", b"new")
    with Reads(top) as reads:
        kept.take(made, filled, "b")
    taken, count = groups(made, "b")
    assert 0 < count - taken <= 3
    assert b"f7" in reads.names and b"large" not in reads.names
    assert len(reads.names) < 120, "two groups of small files at the most"


class Reads:
    """The names of the files in a tree that are read in a while."""

    ACCESS = 1

    def __init__(self, top):
        self.top, self.names = top, set()

    def __enter__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK)
        for path, _, _ in os.walk(self.top):
            assert libc.inotify_add_watch(self.fd, os.fsencode(path), self.ACCESS) >= 0
        return self

    def __exit__(self, *_):
        events = b""
        try:
            while piece := os.read(self.fd, 1 << 20):
                events += piece
        except BlockingIOError:
            os.close(self.fd)
        while events:
            _, mask, _, length = struct.unpack_from("iIII", events)
            if not mask & 0x40000000:       # a directory
                self.names.add(events[16:16 + length].rstrip(b"\0"))
            events = events[16 + length:]


def same_size_and_mtime(path):
    """Other contents that no time but ctime tells of."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.write(b"changed in place")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path):
    """Another file of the same size and time under the name."""
    status = path.stat()
    new = path.with_name("new")
    new.write_bytes(bytes(status.st_size))
    shutil.copystat(path, new)
    new.rename(path)


def anew(path):
    """Most likely of the same inode number."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[0] ^= 1
    path.unlink()
    path.write_bytes(data)
    os.chmod(path, status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap(path):
    """Two files of the same size change places."""
    other = path.with_name("swapped")
    other.write_bytes(path.read_bytes()[::-1])
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, exchange = -100, 2
    assert libc.renameat2(at_cwd, bytes(path), at_cwd, bytes(other), exchange) == 0, \
        errno.errorcode[ctypes.get_errno()]


def direct(path):
    """Past the page cache."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    page.write(b"d" * 4096)
    os.pwritev(fd, [page], 0)
    os.close(fd)


def punch(path):
    run("fallocate", "--punch-hole", "--offset", "0", "--length", "4096", path)


def through_link(path):
    """By a name that is not in the volume."""
    outside = path.parents[2] / f"outside-{os.getpid()}"
    os.link(path, outside)
    outside.write_bytes(outside.read_bytes()[::-1])
    outside.unlink()


CHANGES = {
    "same size and mtime": same_size_and_mtime, "rename over": replace, "anew": anew,
    "swapped": swap, "direct": direct, "hole": punch, "link outside": through_link,
    "chmod": lambda path: path.chmod(0o600), "chown": lambda path: os.chown(path, 7, 8),
    "xattr": lambda path: os.setxattr(path, "user.new", b"x"),
    "acl": lambda path: run("setfacl", "-m", "u:7:rw", path),
    "touch -d": lambda path: run("touch", "-d", "1999-01-01", path),
    "touch": lambda path: path.touch(),
    "second name": lambda path: os.link(path, path.with_name("0first")),
    "second name gone": lambda path: path.with_name("0first").unlink(),
    "grown": lambda path: os.truncate(path, path.stat().st_size + 1),
    "shrunk": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "moved": lambda path: path.rename(path.with_name("0moved")),
    "moved back": lambda path: path.with_name("0moved").rename(path),
    "directory renamed": lambda path: path.parent.rename(path.parent.with_name("z")),
    "directory back": lambda path: path.parent.with_name("z").rename(path.parent),
    "clock of the directory": lambda path: os.utime(path.parent, (5, 5)),
    "removed": lambda path: path.unlink(),
    "directory now": lambda path: path.mkdir(),
    "symlink": lambda path: (path.rmdir(), path.symlink_to("f1")),
}


@pytest.mark.parametrize("file", ["d3/f7", "large"])
def test_every_change_is_seen(pair, file):
    """After each the snapshot is what it would have been without any before it."""
    path = pair.top / file
    if file == "large":
        (pair.top / "l").mkdir()
        path = path.rename(pair.top / "l" / "large")
        settled(pair.top)
    pair.take()
    for change, make in CHANGES.items():
        make(path)
        taken, count = pair.take()
        # What is a few seconds old is read again, but for some changes nothing else is.
        assert 0 < taken < count, change


def test_a_mapped_page(pair):
    """Stores into it change the file's times only when it is written back."""
    path = pair.top / "large"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[0] ^= 1            # the page is dirty, and the file's ctime from now
        settled(pair.top)
        pair.take()
        for number in range(4):
            view[100] = number + 1
            kept.take(pair.one, pair.name, f"m{number}")
            assert (kept.browse(pair.one, pair.name, f"m{number}") / "large").read_bytes()[100] \
                == number + 1
        settled(pair.top)
        view[200] ^= 1
        pair.take()
        view[200] ^= 1
        taken, count = pair.take()
        assert 0 < taken < count


def test_written_again_and_again(pair):
    """Within one tick of the clock, and right after a snapshot was taken."""
    path = pair.top / "d1/f1"
    size = path.stat().st_size
    for number in range(10):
        path.write_bytes(bytes([number]) * size)
        name = f"w{number}"
        kept.take(pair.one, pair.name, name)
        found = (kept.browse(pair.one, pair.name, name) / "d1/f1").read_bytes()
        assert found == bytes([number]) * size
    taken, count = pair.take()
    assert 0 < taken < count


def test_while_it_is_written(pair):
    """A snapshot of it is some of it; the first one after it is all of it."""
    path, stop = pair.top / "large", False
    def write():
        number = 0
        with open(path, "r+b", buffering=0) as file:
            while not stop:
                number = (number + 1) % 256
                os.pwrite(file.fileno(), bytes([number]) * 500_000, (number % 6) * 500_000)
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        for number in range(6):
            kept.take(pair.one, pair.name, f"w{number}")
            run("zstd", "-q", "-t", kept.stored(pair.one, pair.name, f"w{number}"))
        stop = True
        writer.result()
    pair.take()


def test_random_changes(pair):
    """Many of them, snapshot after snapshot."""
    generator = random.Random(6)
    def files():
        return sorted(path for path in pair.top.rglob("*") if path.is_file())
    changes = (lambda path: path.unlink(), same_size_and_mtime, replace, anew,
               lambda path: path.write_bytes(generator.randbytes(generator.randrange(200_000))),
               lambda path: path.rename(path.with_name(f"r{generator.randrange(1000)}")),
               lambda path: path.with_name(f"n{generator.randrange(1000)}").write_bytes(b"new"))
    for turn in range(8):
        for _ in range(generator.randrange(1, 6)):
            path = generator.choice([path for path in files() if path.stat().st_size > 20])
            generator.choice(changes)(path)
        if turn % 3 == 2:
            settled(pair.top)
        pair.take()


def test_other_settings_take_nothing_over(mount, engine, filled):
    """Other compression makes other bytes."""
    made = mount(None, "level=3")
    kept.take(made, filled, "a")
    other = mount(None, "level=1", f"store={kept.store(made)}")
    kept.take(other, filled, "b")
    assert groups(other, "b")[0] == 0
    fresh = mount(None, "level=1")
    kept.take(fresh, filled, "b")
    run("cmp", kept.stored(other, filled, "b"), kept.stored(fresh, filled, "b"))
    kept.assert_kept(other, filled, "b", engine.mountpoint(filled))


def test_an_earlier_one_that_is_damaged(mount, engine, filled):
    """Of its file or its index: what is taken then is sound."""
    made = mount()
    kept.take(made, filled, "a")
    good = kept.path(made, filled, "a").read_bytes()
    for number, harm in enumerate((
            lambda: kept.index(made, filled, f"s{number}").unlink(),
            lambda: os.truncate(kept.index(made, filled, f"s{number}"), 5000),
            lambda: kept.damage(kept.stored(made, filled, f"s{number}"), len(good) - 8))):
        kept.take(made, filled, f"s{number}")
        harm()
        kept.take(made, filled, f"t{number}")
        assert kept.path(made, filled, f"t{number}").read_bytes() == good
    kept.assert_kept(made, filled, "t2", engine.mountpoint(filled))
