"""Kept snapshots: taking them, comparing them, and their files without dvolfs."""
import errno
import os
import re
import struct
from pathlib import Path

from .command import run

SUFFIX = ".tar.zst"
SKIPPABLE = range(0x184D2A50, 0x184D2A60)
SEEK_TABLE, SEEK_TABLE_END = 0x184D2A5E, 0x8F92EAB1


def store(made):
    """Where a mount keeps its snapshots."""
    for word in made.command:
        if found := re.search(r"(?:^|,)store=([^,]*)", word):
            return Path(found[1])
    return made.home / ".local/share/dvolfs"


def path(made, volume, name):
    """A snapshot in the mount."""
    return made.volume(volume) / "snapshots" / (name + SUFFIX)


def browse(made, volume, name=""):
    return made.volume(volume) / "browse" / name


def stored(made, volume, name):
    """Its file in the store."""
    return store(made) / volume / (name + SUFFIX)


def index(made, volume, name):
    return store(made) / volume / f"{name}.index"


def take(made, volume, name):
    """Take one; its file in the mount."""
    run("touch", path(made, volume, name))
    return path(made, volume, name)


def listed(made, volume):
    """The names of the snapshots of a volume; both listings must agree."""
    names = [name for name in os.listdir(made.volume(volume) / "snapshots") if name != "now.tar"]
    assert all(name.endswith(SUFFIX) for name in names), names
    found = sorted(name.removesuffix(SUFFIX) for name in names)
    assert found == sorted(os.listdir(browse(made, volume)))
    return found


def unfinished(made):
    """What is in the store and no snapshot: files being made, or left behind."""
    return os.listdir(store(made) / ".new")


def refusal(call, *arguments):
    """The errno of a call that must fail."""
    try:
        call(*arguments)
    except OSError as failure:
        return errno.errorcode[failure.errno]
    raise AssertionError(f"{call.__name__}{arguments}: no error")


def differences(one, other):
    """What rsync would change in either direction, to the nanosecond; sockets aside."""
    lines = []
    for a, b in ((one, other), (other, one)):
        done = run("rsync", "-aHAX", "--checksum", "--modify-window=-1", "--delete", "--dry-run",
                   "--itemize-changes", f"{a}/", f"{b}/")
        lines += done.stdout.decode(errors="replace").splitlines()
    sockets = run("find", one, other, "-type", "s", "-printf", r"%P\n").stdout.decode().split("\n")
    return [line for line in lines if line.split(" ", 1)[1].strip() not in sockets]


def assert_kept(made, volume, name, top):
    """A snapshot is sound, and is the tree `top`, however it is looked at."""
    run("zstd", "-q", "-t", stored(made, volume, name))
    found = differences(top, browse(made, volume, name))
    assert not found, "\n".join(found[:20])


def unpack(archive, out):
    """Unpack an archive as somebody does who has no dvolfs."""
    out.mkdir()
    run("sh", "-eu", "-c", 'zstd -q -dc "$1" | tar -C "$2" --numeric-owner --xattrs --acls '
        "--xattrs-include='*' -xpf -", "sh", archive, out)
    return out


def frames(archive):
    """[(offset, bytes in the file, bytes)] by the seek table of a file in the zstd seekable
    format, skippable frames too."""
    data = Path(archive).read_bytes()
    count, flags, magic = struct.unpack("<IBI", data[-9:])
    assert magic == SEEK_TABLE_END
    entry = 12 if flags & 0x80 else 8
    begin = len(data) - 9 - count * entry - 8
    assert struct.unpack("<II", data[begin:begin + 8]) == (SEEK_TABLE, count * entry + 9)
    found, offset = [], 0
    for number in range(count):
        packed, plain = struct.unpack_from("<II", data, begin + 8 + number * entry)
        found.append((offset, packed, plain))
        offset += packed
    assert offset == begin, "the table is about all of the file"
    return found


def seek(archive, offset, count):
    """Bytes of what is in the archive, by its seek table and the zstd program alone."""
    found, at = b"", 0
    with open(archive, "rb") as file:
        for begin, packed, plain in frames(archive):
            if plain and at < offset + count and offset < at + plain:
                file.seek(begin)
                done = run("zstd", "-q", "-dc", input=file.read(packed))
                assert len(done.stdout) == plain
                found += done.stdout[max(offset - at, 0):offset + count - at]
            at += plain
    return found


def damage(archive, offset, count=8):
    """Change some bytes of a file in place."""
    with open(archive, "r+b") as file:
        file.seek(offset)
        old = file.read(count)
        assert len(old) == count
        file.seek(offset)
        file.write(bytes(byte ^ 0x5a for byte in old))


def jobs(made):
    """What runs: [(kind, what, done, total, rate, left)]."""
    text = (made.path / ".dvolfs/jobs").read_text()
    return [tuple(line.split("\t")) for line in text.splitlines()]
