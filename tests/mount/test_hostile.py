"""Broken and hostile archives: refused by close(2), and the volume is as it was."""
import bz2
import errno
import gzip
import io
import lzma
import os
import random
import subprocess
import tarfile
import threading

import pytest
from harness import tree

UNSOUND = (errno.EINVAL, errno.EILSEQ)


def archive(*members, dialect=tarfile.PAX_FORMAT):
    """An archive of (name, attributes) or (name, bytes) members."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=dialect) as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            content = what if isinstance(what, bytes) else b""
            for key, value in ({} if isinstance(what, bytes) else what).items():
                setattr(info, key, value)
            if isinstance(what, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def directory(**more):
    return {"type": tarfile.DIRTYPE, "mode": 0o755, **more}


def link(target):
    return {"type": tarfile.SYMTYPE, "linkname": target}


def hard(target):
    return {"type": tarfile.LNKTYPE, "linkname": target}


def compressed(data, kind):
    """The bytes in one of the formats, with the checks that its tool has on by default."""
    if kind == "zst":
        return subprocess.run(["zstd", "-q"], input=data, capture_output=True, check=True).stdout
    return {"gz": gzip.compress, "bz2": bz2.compress,
            "xz": lambda d: lzma.compress(d, check=lzma.CHECK_CRC64)}[kind](data)


@pytest.fixture
def sound():
    """A good archive of some size, with data that hardly compresses."""
    generator = random.Random(3)
    return archive(("./", directory()), ("./a", generator.randbytes(20_000)), ("./b", b"short"),
                   ("./d/", directory()), ("./d/c", generator.randbytes(70_000)),
                   ("./" + "long" * 60, b"pax"), ("./link", link("b")))


@pytest.fixture
def target(engine, volume, mount):
    """A mounted volume that is not empty."""
    name = volume()
    tree.simple(engine.mountpoint(name))
    tree.write(engine.mountpoint(name) / "file", b"old")
    return Target(mount(), name, engine.mountpoint(name))


class Target:
    """A volume that archives are written to, and what it held before."""

    def __init__(self, made, name, top):
        self.made, self.name, self.top = made, name, top
        self.state = tree.describe(top, exact=True)

    def put(self, data, name="x.tar"):
        """0, or the errno that the writer got."""
        fd = os.open(self.made.restore(self.name, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            for offset in range(0, len(data), 1 << 20):
                os.write(fd, data[offset:offset + (1 << 20)])
        except OSError as failure:
            try:
                os.close(fd)
            except OSError:
                pass
            return failure.errno
        try:
            os.close(fd)
        except OSError as failure:
            return failure.errno
        return 0

    def untouched(self):
        tree.assert_same(self.state, tree.describe(self.top, exact=True))

    def refuses(self, data, numbers, name="x.tar"):
        answer = self.put(data, name)
        assert answer in numbers, errno.errorcode.get(answer, answer)
        self.untouched()
        text = self.made.restore(self.name, name).read_text()
        assert text and len(text) < 4096


def test_nothing(target):
    target.refuses(b"", UNSOUND)


@pytest.mark.parametrize("data", [b"\0", b"x", b"plain text\n" * 5000, bytes(511), b"\x1f\x8b",
                                  b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\0",
                                  b"\x89PNG" + bytes(999),
                                  random.Random(4).randbytes(100_000), b"PK\3\4" + bytes(2000),
                                  b"!<arch>\n" + b"x" * 600, b"070701" + b"0" * 200],
                         ids=lambda data: repr(data[:4]))
def test_not_an_archive(target, data):
    target.refuses(data, UNSOUND)


def test_compressed_but_no_archive(target):
    for kind in ("gz", "bz2", "xz", "zst"):
        target.refuses(compressed(b"just a log file\n" * 1000, kind), UNSOUND, f"x.tar.{kind}")


def test_truncated_anywhere(target, sound):
    end = len(sound.rstrip(b"\0"))
    end += -end % 512               # the first of the two zero blocks
    cuts = {512 * n for n in range(1, end // 512, 17)} | set(range(100, end, 4999)) | {
        end - 512, end - 1, end, end + 1, end + 511}
    for cut in sorted(cuts):
        target.refuses(sound[:cut], UNSOUND)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_truncated_anywhere_compressed(target, sound, kind):
    data = compressed(sound, kind)
    for cut in sorted({1, 5, 20, len(data) - 1, len(data) - 4, len(data) - 9,
                       *range(100, len(data), len(data) // 15)}):
        target.refuses(data[:cut], UNSOUND, f"x.tar.{kind}")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_one_flipped_byte(target, sound, kind):
    data = compressed(sound, kind)
    for place in range(len(data) // 20, len(data) * 19 // 20, len(data) // 15):
        broken = bytearray(data)
        broken[place] ^= 0x10
        target.refuses(bytes(broken), UNSOUND, f"x.tar.{kind}")


def test_a_flipped_byte_in_a_header(target, sound):
    for place in (0, 100, 124, 148, 257):       # name, mode, size, checksum, magic of the second
        broken = bytearray(sound)
        broken[512 + place] ^= 0x01
        target.refuses(bytes(broken), UNSOUND)


def test_garbage_between_members(target, sound):
    target.refuses(sound[:512] + random.Random(5).randbytes(512) + sound[512:], UNSOUND)


def test_garbage_after_the_end_does_no_harm(target, sound):
    """A tar ends at its zero blocks; what follows is refused, or ignored as tar does."""
    answer = target.put(sound + b"trailing garbage" * 100_000)
    if answer:
        assert answer in UNSOUND
        target.untouched()
    else:
        assert (target.top / "b").read_bytes() == b"short"


@pytest.mark.parametrize("members", [
    [("/etc/evil", b"x")],
    [("/evil", b"x")],
    [("../evil", b"x")],
    [("./../evil", b"x")],
    [("a/../../evil", b"x")],
    [("a/..", directory())],
    [("..", directory())],
    [("../", directory())],
    [("./a/./../../b", b"x")],
    [("a", link("/etc")), ("a/evil", b"x")],
    [("a", link("..")), ("a/evil", b"x")],
    [("a", link("../../..")), ("a/b/evil", b"x")],
    [("a", link("b")), ("b", link("/tmp")), ("a/evil", b"x")],
    [("d", directory()), ("d/a", link("/")), ("d/a/etc/evil", b"x")],
    [("a", link("/etc/passwd")), ("h", hard("a/../../etc/passwd"))],
    [("h", hard("/etc/passwd"))],
    [("h", hard("../../../etc/passwd"))],
    [("h", hard("a/../../x"))],
    [("a", link("/etc")), ("h", hard("a/passwd"))],
    [("/", directory())],
    [("//etc/evil", b"x")],
], ids=lambda members: " ".join(name for name, _ in members))
@pytest.mark.parametrize("last", [False, True], ids=["alone", "last of many"])
def test_what_leads_out_is_unsafe(target, members, last):
    fine = [(f"fine{number}", b"fine") for number in range(200)] if last else []
    target.refuses(archive(*fine, *members), (errno.EPERM,))


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_unsafe_and_compressed(target, kind):
    data = archive(("fine", b"fine"), ("../evil", b"x"))
    target.refuses(compressed(data, kind), (errno.EPERM,), f"x.tar.{kind}")


def test_unsafe_in_other_dialects(target):
    for dialect in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        long = "../" + "long/" * 30 + "evil"
        target.refuses(archive(("fine", b"x"), (long, b"x"), dialect=dialect), (errno.EPERM,))


def test_a_hard_link_to_nothing(target):
    """Its target is neither in the archive nor in the volume."""
    answer = target.put(archive(("fine", b"fine"), ("h", hard("nowhere"))))
    assert answer != 0
    target.untouched()


def test_a_link_that_the_volume_already_has(target, scratch):
    """A member through a link of the volume's stays in the volume, or is refused."""
    outside = scratch / "outside"
    outside.mkdir()
    os.symlink(outside, target.top / "evil")
    os.symlink("/", target.top / "root")
    target.state = tree.describe(target.top, exact=True)
    answer = target.put(archive(("evil/file", b"x"), ("root/etc/file", b"x")))
    assert os.listdir(outside) == []
    if answer:
        target.untouched()


def test_links_that_point_out_are_only_links(target):
    """A symlink may say what it likes: nobody follows it here."""
    assert target.put(archive(("out", link("/etc/passwd")), ("up", link("../../x")))) == 0
    assert os.readlink(target.top / "out") == "/etc/passwd"
    assert os.readlink(target.top / "up") == "../../x"


def test_devices_are_devices(target):
    data = archive(("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666}),
                   ("disk", {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0, "mode": 0o600}),
                   ("fifo", {"type": tarfile.FIFOTYPE, "mode": 0o600}))
    assert target.put(data) == 0
    assert os.stat(target.top / "null").st_rdev == os.makedev(1, 3)
    assert os.stat(target.top / "disk").st_rdev == os.makedev(8, 0)


def test_ten_thousand_levels(target):
    answer = target.put(archive(("d/" * 10_000 + "f", b"x")))
    assert answer in (*UNSOUND, errno.EPERM, errno.ENAMETOOLONG)
    target.untouched()


def test_a_thousand_levels(target):
    """Deep, but a path that every system takes."""
    assert target.put(archive(("d/" * 1000 + "f", b"x"))) == 0
    assert (target.top / ("d/" * 1000 + "f")).read_bytes() == b"x"


def test_a_name_too_long_for_any_file(target):
    answer = target.put(archive(("fine", b"fine"), ("n" * 256, b"x")))
    assert answer in (*UNSOUND, errno.EPERM, errno.ENAMETOOLONG)
    target.untouched()


def test_odd_names(target):
    names = ["new\nline", "back\\slash", "-rf", "*", "sp ace", "tab\t", "ünï", "a" * 255, "...",
             "..a", "a..", "C:x"]
    assert target.put(archive(*[(name, name.encode()) for name in names])) == 0
    for name in names:
        assert (target.top / name).read_bytes() == name.encode()


def test_members_twice(target):
    """The last one counts, as with tar x."""
    assert target.put(archive(("file", b"first"), ("other", b"x"), ("file", b"second"))) == 0
    assert (target.top / "file").read_bytes() == b"second"
    assert target.put(archive(("t", directory()), ("t/f", b"x"), ("t/f", link("g")),
                              ("t/g", b"last"), ("t/f", b"file again"))) == 0
    assert (target.top / "t/f").read_bytes() == b"file again"
    assert (target.top / "t/g").read_bytes() == b"last"


def test_sizes_that_lie(target):
    """A header that announces far more than there is."""
    info = tarfile.TarInfo("huge")
    for size in (1 << 33, (1 << 62), 100_000):
        info.size = size
        data = info.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048 + bytes(1024)
        target.refuses(data, (*UNSOUND, errno.ENOSPC, errno.EFBIG))


def test_a_pax_header_bomb(target):
    """A pax header that announces gigabytes of names."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    data = info.tobuf(tarfile.GNU_FORMAT) + b"a" * 100_000
    target.refuses(data, (*UNSOUND, errno.ENOMEM, errno.EFBIG))
    assert target.made.status_kb("VmRSS") < 600_000


def bomb(megabytes, kind="zst"):
    """An archive with one file of zeros, compressed to next to nothing."""
    info = tarfile.TarInfo("zeros")
    info.size = megabytes << 20
    packer = subprocess.Popen({"zst": ["zstd", "-q", "-1"], "gz": ["gzip", "-1"]}[kind],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def feed():
        with packer.stdin as pipe:
            pipe.write(info.tobuf(tarfile.GNU_FORMAT))
            for _ in range(megabytes):
                pipe.write(bytes(1 << 20))
            pipe.write(bytes(1024))
    feeder = threading.Thread(target=feed)
    feeder.start()
    data = packer.stdout.read()
    feeder.join()
    packer.wait()
    packer.stdout.close()
    return data


@pytest.fixture
def small_disk(engine, volume):
    """A volume of 32 MiB."""
    name = volume()
    top = engine.mountpoint(name)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", top], check=True)
    yield name
    subprocess.run(["umount", "-l", top], check=True)


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_compression_bomb(mount, engine, small_disk, kind):
    top = engine.mountpoint(small_disk)
    tree.simple(top)
    before = tree.describe(top, exact=True)
    made = mount()
    data = bomb(500, kind)
    with pytest.raises(OSError) as failure:
        made.restore(small_disk, f"x.tar.{kind}").write_bytes(data)
    assert failure.value.errno == errno.ENOSPC
    tree.assert_same(before, tree.describe(top, exact=True))
    if not made.has_sanitizer():
        assert made.status_kb("VmHWM") < 100_000


def test_many_layers_of_compression(target):
    data = archive(("fine", b"fine"))
    for _ in range(30):
        data = gzip.compress(data)
    answer = target.put(data, "x.tar.gz")
    assert answer in (0, *UNSOUND)
    if answer:
        target.untouched()


def test_tens_of_thousands_of_members(target):
    """Many tiny files: fine, and in a bearable time and memory."""
    assert target.put(archive(*[(f"m/{number}", b"") for number in range(20_000)])) == 0
    assert len(os.listdir(target.top / "m")) == 20_000


def test_a_hostile_archive_does_not_spoil_the_next(target, sound):
    target.refuses(archive(("../evil", b"x")), (errno.EPERM,))
    target.refuses(sound[:-20_000], UNSOUND)
    assert target.put(sound) == 0
    assert (target.top / "b").read_bytes() == b"short"
