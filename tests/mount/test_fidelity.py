"""Fidelity: data/ and now.tar are the volume, to the nanosecond, attribute and hole."""
import hashlib
import json
import os
import random
import stat
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import tree
from harness.command import run
from harness.wait import wait_for

pytestmark = pytest.mark.access("local", "agent", "agent-stream")


@pytest.fixture
def filled(engine, volume, way):
    """A volume with everything, as exactly as a file system keeps it and the way can tell."""
    name = volume()
    tree.faithful(engine.mountpoint(name), trusted=way == "local")
    return name


# data/
def test_rsync_finds_no_difference(mount, engine, filled):
    top, data = engine.mountpoint(filled), mount().data(filled)
    def differences(one, other):
        return run("rsync", "-aHAX", "--checksum", "--modify-window=-1", "--delete", "--dry-run",
                   "--itemize-changes", f"{one}/", f"{other}/").stdout.decode(errors="replace")
    assert differences(top, data) == ""
    assert differences(data, top) == ""


def test_rsync_finds_every_difference(mount, engine, filled):
    """The one above is not blind."""
    top, data = engine.mountpoint(filled), mount().data(filled)
    copy = engine.mountpoint(engine.volume())
    for number, change in enumerate((
            lambda: os.setxattr(top / "sizes/1", "user.new", b"x"),
            lambda: run("setfacl", "-m", "u:7:r", top / "modes/f777"),
            lambda: os.link(top / "sizes/0", top / "second name"))):
        arguments = ["rsync", "-aHAX", "--modify-window=-1", "--itemize-changes"]
        run(*arguments, f"{top}/", f"{copy}/")
        change()
        wait_for(lambda: run(*arguments, "--dry-run", f"{data}/", f"{copy}/").stdout,
                 f"change {number} is seen", 3)


def test_a_copy_by_rsync_is_the_volume(mount, engine, filled, scratch):
    out = scratch / "out"
    out.mkdir()
    run("rsync", "-aHAXS", "--modify-window=-1", f"{mount().data(filled)}/", f"{out}/")
    tree.assert_same(engine.mountpoint(filled), out, exact=True)


def test_tar_of_data_is_tar_of_the_volume(mount, engine, filled, scratch):
    """What a user's own backup program makes of data/ has the same contents."""
    digests = set()
    for top in (engine.mountpoint(filled), mount().data(filled)):
        done = subprocess.run(
            ["tar", "-C", top, "--sort=name", "--xattrs", "--xattrs-include=*", "--acls",
             "--format=posix", "--pax-option=delete=atime,delete=ctime,exthdr.name=%f",
             "--warning=no-file-ignored", "-c", "."], stdout=subprocess.PIPE, check=True)
        digests.add(hashlib.sha256(done.stdout).hexdigest())
    assert len(digests) == 1


def restic(scratch, *arguments):
    """What restic prints, as JSON; its repository is in scratch."""
    done = run("restic", "--repo", scratch / "repository", "--no-cache", "--json", *arguments,
               env={**os.environ, "RESTIC_PASSWORD": "x"})
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]


def test_a_deduplicating_backup_finds_the_same(mount, engine, filled, scratch):
    """Of data/ after one of the directory itself: every file's content is known already."""
    restic(scratch, "init")
    summaries, contents = [], []
    for top in (engine.mountpoint(filled), mount().data(filled)):
        summary = restic(scratch, "backup", "--ignore-ctime", top)[-1]
        listed = restic(scratch, "ls", summary["snapshot_id"])
        summaries.append(summary)
        contents.append({os.path.relpath(each["path"], top): {
            key: each.get(key) for key in ("type", "uid", "gid", "size", "mode", "mtime")}
            for each in listed if each["struct_type"] == "node" and
            each["path"].startswith(str(top))})
    assert summaries[1]["data_blobs"] == 0, "no content that is new"
    assert summaries[0]["total_bytes_processed"] == summaries[1]["total_bytes_processed"]
    assert contents[0] == contents[1] and len(contents[0]) > 100


# now.tar
def by_tarfile(archive, out):
    with tarfile.open(archive) as tar:
        tar.extractall(out, numeric_owner=True)


EXTRACTORS = {
    "tar": lambda archive, out: run("tar", "-C", out, "--numeric-owner", "--xattrs", "--acls",
                                    "--xattrs-include=*", "-xpf", archive),
    "bsdtar": lambda archive, out: run("bsdtar", "-C", out, "--numeric-owner", "--acls", "--xattrs",
                                       "-xpf", archive),
    "tarfile": by_tarfile,
}


def without_sockets(facts):
    """No tar has them."""
    return {name: fact for name, fact in facts.items() if fact["type"] != stat.S_IFSOCK}


# What a tool gets wrong with anybody's archive is taken out of what is expected.
def bsdtar_limits(name, one, other):
    """libarchive 3.6: fractions of negative times, ids of ACLs over 2^31, the root's own time."""
    if one["mtime"] < 0 and one["mtime"] % tree.SECOND or name == b".":
        one["mtime"] = other["mtime"] = None
    if name == b"acls/huge id":
        one["xattrs"] = other["xattrs"] = None


def tarfile_limits(name, one, other):
    """Python's tarfile: no attributes, times in binary fractions, none of a symlink; a second name
    of a symlink to what is not there yet becomes one more symlink."""
    one["xattrs"] = other["xattrs"] = None
    if stat.S_ISLNK(one["type"]) or abs(one["mtime"] - other["mtime"]) < 1000:
        one["mtime"] = other["mtime"] = None
    if name in (b"links/sym0", b"links/symhard"):
        del one["links"]


def no_limits(_name, _one, _other):
    pass


LIMITS = {"tar": no_limits, "bsdtar": bsdtar_limits, "tarfile": tarfile_limits}


@pytest.mark.parametrize("tool", EXTRACTORS)
def test_extracted_it_is_the_same_tree(mount, engine, filled, scratch, tool):
    out = scratch / "out"
    out.mkdir()
    EXTRACTORS[tool](mount().now(filled), out)
    one = without_sockets(tree.describe(engine.mountpoint(filled), exact=True))
    other = tree.describe(out, exact=True)
    for name in one.keys() & other.keys():
        LIMITS[tool](name, one[name], other[name])
    tree.assert_same(one, other)


def test_holes_are_extracted_as_holes(mount, engine, filled, scratch):
    """By those that know the sparse format; whole blocks may be filled up."""
    made = mount()
    for tool in ("tar", "bsdtar"):
        out = scratch / tool
        out.mkdir()
        EXTRACTORS[tool](made.now(filled), out)
        for path in (engine.mountpoint(filled) / "holes").iterdir():
            used = path.stat().st_blocks
            assert (out / "holes" / path.name).stat().st_blocks <= used + used // 4 + 16, path


def test_the_archive_has_no_more_than_the_data(mount, engine, volume):
    """A file of holes takes as much room in the archive as its data."""
    name = volume()
    tree.scattered(engine.mountpoint(name) / "huge", (0, 1 << 40), (1 << 40) + 1000)
    size = os.stat(mount().now(name)).st_size
    assert size < 100_000


def test_busybox_extracts_it(mount, engine, volume, scratch):
    """It knows pax no further than it must: names of plain headers, whole seconds, no holes."""
    name = volume()
    top = engine.mountpoint(name)
    tree.simple(top)
    for number, odd in enumerate(tree.NAMES):
        if len(odd) <= 92:      # with ./odd/ in front
            (top / "odd").mkdir(exist_ok=True)
            tree.write(os.fsencode(top) + b"/odd/" + odd, b"%d" % number)
    os.mkfifo(top / "fifo")
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for mode in (0o4755, 0o2755, 0o1644, 0o000):
        tree.write(top / f"{mode:o}", b"m", mode)
    tree.whole_seconds(top)
    out = scratch / "out"
    out.mkdir()
    run("busybox", "tar", "-C", out, "-xpf", mount().now(name))
    one, other = tree.describe(top), tree.describe(out)
    for facts in (*one.values(), *other.values()):
        if facts["type"] != stat.S_IFREG:
            del facts["mtime"]      # it does not set all of these
    tree.assert_same(one, other)


def test_numbers_beyond_a_plain_header(mount, engine, volume, scratch):
    """A size over 8 GiB and ids over 2^21."""
    name = volume()
    top = engine.mountpoint(name)
    tree.scattered(top / "big", (0, 9 << 30), (9 << 30) + 100)
    os.chown(top / "big", 4_000_000_000, 3_000_000_000)
    archive = mount().now(name)
    listed = run("tar", "--numeric-owner", "-tvf", archive).stdout.decode()
    assert f"4000000000/3000000000 {(9 << 30) + 100} " in listed
    run("tar", "-C", scratch, "--numeric-owner", "-xpf", archive)
    assert tree.runs(scratch / "big") == tree.runs(top / "big")
    with open(scratch / "big", "rb") as file:
        file.seek(9 << 30)
        assert file.read(10) == b"data at 96"


def test_paths_of_any_length(mount, engine, volume, scratch):
    """GNU tar lists them; bsdtar also makes them, but for the times of directories."""
    name = volume()
    top = engine.mountpoint(name)
    tree.deep(os.fsencode(top), 60, b"d" * 255)
    archive = mount().now(name)
    names = run("tar", "tf", archive).stdout.splitlines()
    assert names == [b"./" + b"".join([b"d" * 255 + b"/"] * n) for n in range(61)] + [
        b"./" + b"".join([b"d" * 255 + b"/"] * 60) + b"bottom"]
    out = scratch / "out"
    out.mkdir()
    run("bsdtar", "-C", out, "-xpf", archive)
    one, other = tree.describe(top, exact=True), tree.describe(out, exact=True)
    for facts in (*one.values(), *other.values()):
        if facts["type"] == stat.S_IFDIR:
            del facts["mtime"]
    tree.assert_same(one, other)


def docker_limits(one, other):
    """The engine's PUT: times before 1970 but of symlinks, attributes without a value."""
    if one["mtime"] < 0 and not stat.S_ISLNK(one["type"]):
        one["mtime"] = other["mtime"] = None
    one["xattrs"] = {key: value for key, value in one["xattrs"].items() if value}


def test_restored_it_is_the_same_tree(mount, engine, filled, volume):
    other = volume()
    made = mount()
    run("cp", made.now(filled), made.restore(other))
    expected = without_sockets(tree.describe(engine.mountpoint(filled), exact=True))
    got = tree.describe(engine.mountpoint(other), exact=True)
    for name in expected.keys() & got.keys():
        docker_limits(expected[name], got[name])
    tree.assert_same(expected, got)


# The bytes
def test_two_reads_are_the_same(mount, filled):
    made = mount()
    digests = [hashlib.sha256(made.now(filled).read_bytes()).hexdigest() for _ in range(2)]
    assert digests[0] == digests[1]


def test_reading_anywhere_in_any_order(mount, filled):
    made = mount()
    data = made.now(filled).read_bytes()
    fd = os.open(made.now(filled), os.O_RDONLY | os.O_DIRECT)    # no page cache: each read is asked
    def read_some(seed):
        generator = random.Random(seed)
        wrong = []
        for _ in range(300):
            offset = generator.randrange(len(data) + 1000)
            length = generator.choice((1, 511, 512, 513, 4096, 70_000, 1 << 20))
            buffer = bytearray(length)
            n = os.preadv(fd, [buffer], offset)
            if buffer[:n] != data[offset:offset + length]:
                wrong.append((offset, length, n))
        return wrong
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_some, range(4))) == [[]] * 4
    os.close(fd)


# Changes while it is read
MIDDLE = 3_000_000


def grow(path):
    with open(path, "ab") as file:
        file.write(b"+" * 2_000_000)


def become_a_directory(path):
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"-")


def become_a_link(path):
    path.unlink()
    path.symlink_to("/etc/passwd")


def become_a_fifo(path):
    path.unlink()
    os.mkfifo(path)


def become_another(path):
    path.with_name("new").write_bytes(b"n" * MIDDLE)
    path.with_name("new").rename(path)


def become_anew(path):
    """A new file, most likely with the old one's inode number."""
    path.unlink()
    path.write_bytes(b"n" * MIDDLE)


def lose_its_directory(path):
    path.parent.rename(path.parent.with_name("elsewhere"))


CHANGES = {"grow": grow, "shrink": lambda path: os.truncate(path, 100_000),
           "empty": lambda path: os.truncate(path, 0), "vanish": lambda path: path.unlink(),
           "directory": become_a_directory, "symlink": become_a_link, "fifo": become_a_fifo,
           "another": become_another, "anew": become_anew, "moved": lose_its_directory}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["before", "amid"])
def test_what_changes_while_it_is_read(mount, engine, volume, scratch, change, when):
    """Well-formed, of the size that was told, all else intact; what was affected is told."""
    name = volume()
    top = engine.mountpoint(name)
    victim = top / "m/victim"
    victim.parent.mkdir()
    for path in (top / "a-first", victim, top / "z-last"):
        path.write_bytes(path.name.encode()[:1] * MIDDLE)
    os.link(victim, top / "z-second name")
    made = mount()
    with open(made.now(name), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)     # no reading ahead
        start = file.read(4096 if when == "before" else MIDDLE + MIDDLE // 2)
        if change in ("vanish", "anew"):
            (top / "z-second name").unlink()
        CHANGES[change](victim)
        rest = b""
        while piece := file.read(1 << 20):
            rest += piece
    archive = scratch / "x.tar"
    archive.write_bytes(start + rest)
    assert archive.stat().st_size == size

    for tool in ("tar", "bsdtar", "tarfile"):
        out = scratch / tool
        out.mkdir()
        EXTRACTORS[tool](archive, out)
        assert (out / "a-first").read_bytes() == b"a" * MIDDLE
        assert (out / "z-last").read_bytes() == b"z" * MIDDLE
        extracted = out / "m/victim"
        gone = when == "before" and change not in ("grow", "shrink", "empty")
        assert extracted.exists() == (out / "z-second name").exists() == (not gone), tool
        if not gone:
            assert not extracted.is_symlink() and extracted.stat().st_size == MIDDLE
            assert set(extracted.read_bytes()) <= set(b"v\0")
            assert extracted.samefile(out / "z-second name")
        if change == "grow":
            assert extracted.read_bytes() == b"v" * MIDDLE
    told = [line for line in made.log().splitlines() if "m/victim" in line]
    assert len(told) == (0 if change == "grow" or (when == "amid" and not in_log(change)) else 1)


def in_log(change):
    """Whether the reader lost bytes that it had begun to get: the file is open till its end."""
    return change in ("shrink", "empty")
