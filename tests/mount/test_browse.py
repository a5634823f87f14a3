"""browse/: kept snapshots opened as directories, all as it was, and nothing wrong ever."""
import errno
import hashlib
import io
import os
import random
import shutil
import stat
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import kept, tree
from harness.command import run

pytestmark = pytest.mark.access("local", "agent")


@pytest.fixture
def filled(engine, volume, way):
    """A volume with everything, as exactly as a file system keeps it and the way can tell."""
    name = volume()
    tree.faithful(engine.mountpoint(name), trusted=way == "local")
    return name


def without_sockets(facts):
    return {path: fact for path, fact in facts.items() if fact["type"] != stat.S_IFSOCK}


def test_it_is_the_volume(mount, engine, filled, scratch):
    """To the nanosecond, attribute, hole and hard link, whoever compares."""
    made = mount()
    kept.take(made, filled, "a")
    top, browse = engine.mountpoint(filled), kept.browse(made, filled, "a")
    kept.assert_kept(made, filled, "a", top)
    tree.assert_same(without_sockets(tree.describe(top, exact=True)),
                     tree.describe(browse, exact=True))
    out = scratch / "out"
    out.mkdir()
    run("rsync", "-aHAXS", "--modify-window=-1", f"{browse}/", f"{out}/")
    tree.assert_same(tree.describe(browse, exact=True), tree.describe(out, exact=True))
    for path in ("holes/first", "holes/last", "holes/many", "holes/all", "sizes/sparse"):
        assert tree.runs(browse / path) == tree.runs(top / path), path
        assert (browse / path).stat().st_blocks <= (top / path).stat().st_blocks + 8
        assert (browse / path).read_bytes() == (top / path).read_bytes()
    for path in ("links/sym0", "links/sym7", "sizes/513", "sizes/hole"):
        assert os.lstat(browse / path).st_size == os.lstat(top / path).st_size, path
    for path in ("special/null", "special/disk"):
        assert os.lstat(browse / path).st_rdev == os.lstat(top / path).st_rdev


def test_rsync_finds_every_difference(mount, engine, filled):
    """The comparison above is not blind."""
    made = mount()
    top = engine.mountpoint(filled)
    for number, change in enumerate((
            lambda: os.setxattr(top / "sizes/1", "user.new", b"x"),
            lambda: run("setfacl", "-m", "u:7:r", top / "modes/f777"),
            lambda: os.link(top / "sizes/0", top / "second name"),
            lambda: os.utime(top / "sizes/512", ns=(1, 1)),
            lambda: (top / "sizes/513").write_bytes(b"x" * 513))):
        kept.take(made, filled, f"s{number}")
        browse = kept.browse(made, filled, f"s{number}")
        assert kept.differences(top, browse) == []
        change()
        assert kept.differences(top, browse) != [], number


def test_programs_that_look_at_it(mount, engine, filled, scratch):
    made = mount()
    kept.take(made, filled, "a")
    top, browse = engine.mountpoint(filled), kept.browse(made, filled, "a")
    digests = set()
    for directory in (top, browse):
        done = run("tar", "-C", directory, "--sort=name", "--xattrs", "--xattrs-include=*",
                   "--acls", "--format=posix", "--exclude=./special", "--pax-option="
                   "delete=atime,delete=ctime,exthdr.name=%f", "--mtime=@0", "-c", ".")
        digests.add(hashlib.sha256(done.stdout).hexdigest())
    assert len(digests) == 1
    listings = [run("find", directory, "!", "-type", "d", "-printf", r"%P %i\0").stdout
                for directory in (browse, browse)]
    assert listings[0] == listings[1]
    out = scratch / "out"
    run("cp", "-a", browse, out)
    tree.assert_same(tree.describe(top), tree.describe(out))
    assert run("grep", "-rlx", "m", browse / "modes").stdout.count(b"\n") == 7
    run("diff", "-r", "--no-dereference", top / "names", browse / "names")


def numbers(top):
    """{path: inode number} of a tree."""
    return {os.path.join(path, name): os.lstat(os.path.join(path, name)).st_ino
            for path, directories, files in os.walk(os.fsencode(top))
            for name in [b".", *directories, *files]}


def test_inode_numbers_stay(mount, engine, filled):
    """Over a remount; links share them, nothing else does."""
    made = mount()
    kept.take(made, filled, "a")
    kept.take(made, filled, "b")
    browse = kept.browse(made, filled, "a")
    first = numbers(browse)
    other = numbers(kept.browse(made, filled, "b"))
    assert not set(first.values()) & set(other.values()), "of another snapshot"
    path = os.fsencode(browse)
    groups = {}
    for name, number in first.items():
        groups.setdefault(number, set()).add(os.path.normpath(os.path.relpath(name, path)))
    shared = sorted(sorted(names) for names in groups.values() if len(names) > 1)
    top = os.fsencode(engine.mountpoint(filled))
    expected = {}
    for name, number in numbers(top).items():
        expected.setdefault(number, set()).add(os.path.normpath(os.path.relpath(name, top)))
    assert shared == sorted(sorted(names) for names in expected.values() if len(names) > 1)
    made.umount()
    again = mount(None, f"store={kept.store(made)}", path=made.path)
    assert numbers(kept.browse(again, filled, "a")) == first


def test_nothing_leads_out(mount, engine, volume, scratch):
    name = volume()
    top = engine.mountpoint(name)
    (scratch / "secret").write_text("secret")
    os.symlink(scratch / "secret", top / "link")
    os.symlink("../../../../../../../../etc", top / "up")
    made = mount()
    kept.take(made, name, "a")
    browse = kept.browse(made, name, "a")
    assert os.readlink(browse / "link") == str(scratch / "secret")
    assert os.readlink(browse / "up") == "../../../../../../../../etc"
    for path in ("link/x", "..%2f", "none/../none"):
        assert not (browse / path).exists()
    assert kept.refusal(os.lstat, browse / ("x" * 256)) == "ENAMETOOLONG"


def test_reading_anywhere_in_any_order(mount, engine, volume):
    """Several at once, past the page cache."""
    name = volume()
    data = random.Random(8).randbytes(9_000_000)
    tree.write(engine.mountpoint(name) / "file", data)
    tree.write(engine.mountpoint(name) / "other", data[::-1])
    made = mount()
    kept.take(made, name, "a")
    def read_some(seed):
        generator, wrong = random.Random(seed), 0
        expected = data if seed % 2 else data[::-1]
        fd = os.open(kept.browse(made, name, "a") / ("file" if seed % 2 else "other"),
                     os.O_RDONLY | os.O_DIRECT)
        for _ in range(150):
            offset = generator.randrange(len(data) + 1000)
            buffer = bytearray(generator.choice((1, 511, 513, 4096, 70_000, 3 << 20)))
            count = os.preadv(fd, [buffer], offset)
            wrong += buffer[:count] != expected[offset:offset + len(buffer)]
        os.close(fd)
        return wrong
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_some, range(4))) == [0] * 4


# The index
def unchanged_since(path, before):
    status = path.stat()
    return (status.st_ino, status.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_it_is_there_at_once(mount, engine, filled):
    """The index is used as it is, and the archive is not read for a listing."""
    made = mount()
    kept.take(made, filled, "a")
    before = kept.index(made, filled, "a").stat()
    archive = kept.stored(made, filled, "a")
    data = archive.read_bytes()
    frames = kept.frames(archive)
    made.umount()
    with open(archive, "r+b") as file:      # only what says where the frames are is left
        file.write(bytes(frames[-1][0]))
    again = mount(None, f"store={kept.store(made)}")
    browse = kept.browse(again, filled, "a")
    top = engine.mountpoint(filled)
    assert sorted(os.listdir(browse)) == sorted(os.listdir(top))
    assert sorted(os.listdir(browse / "names")) == sorted(os.listdir(top / "names"))
    assert (browse / "sizes/5000000").stat().st_size == 5_000_000
    assert kept.refusal((browse / "sizes/5000000").read_bytes) == "EIO"
    assert unchanged_since(kept.index(made, filled, "a"), before)
    archive.write_bytes(data)


def garbage(path):
    path.write_bytes(random.Random(9).randbytes(50_000))


def each_page(path):
    """A byte of every page of it."""
    data = bytearray(path.read_bytes())
    for offset in range(100, len(data), 4096):
        data[offset] ^= 0xff
    path.write_bytes(data)


def some_pages(path):
    """Behind what is looked at first."""
    data = bytearray(path.read_bytes())
    for offset in range(len(data) // 3, len(data) * 2 // 3, 1000):
        data[offset] ^= 1
    path.write_bytes(data)


HARMS = {
    "gone": lambda path: path.unlink(), "empty": lambda path: os.truncate(path, 0),
    "short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "garbage": garbage,
    "another database": lambda path: (path.unlink(), run(
        "python3", "-c", "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "c.execute('create table meta (a)'); c.commit()", path)),
    "of another snapshot": lambda path: shutil.copy(path.with_name("other.index"), path),
}


def test_an_index_that_is_not_right_is_made_anew(mount, engine, filled):
    """Whatever it is: what is shown is the snapshot."""
    made = mount()
    kept.take(made, filled, "a")
    expected = tree.describe(kept.browse(made, filled, "a"), exact=True)
    kept.take(made, filled, "other")
    tree.write(engine.mountpoint(filled) / "more", b"more")
    os.unlink(kept.path(made, filled, "other"))
    kept.take(made, filled, "other")
    for harm, do in HARMS.items():
        path = kept.index(made, filled, "a")
        made.umount()
        do(path)
        before = path.stat() if path.exists() else None
        made = mount(None, f"store={kept.store(made)}")
        found = tree.describe(kept.browse(made, filled, "a"), exact=True)
        tree.assert_same(expected, found, exact=True)
        assert before is None or not unchanged_since(path, before), harm
    assert kept.unfinished(made) == []


@pytest.mark.parametrize("harm", [each_page, some_pages])
def test_an_index_that_is_damaged_within(mount, engine, filled, harm):
    """It may be found on the way only: an error that is told, and nothing that is wrong."""
    made = mount()
    kept.take(made, filled, "a")
    expected = tree.describe(kept.browse(made, filled, "a"), exact=True)
    made.umount()
    harm(kept.index(made, filled, "a"))
    again = mount(None, f"store={kept.store(made)}")
    top, failed, seen = os.fsencode(kept.browse(again, filled, "a")), 0, 0
    for path in sorted(expected):
        parent, name = os.path.split(os.path.join(top, path))
        try:
            fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                found = tree.entry(name, fd, path, {}, True)
            finally:
                os.close(fd)
            assert found == {key: value for key, value in expected[path].items()
                             if key != "links"}, path
            seen += 1
        except OSError as failure:
            assert failure.errno == errno.EIO or failure.errno == errno.ENAMETOOLONG, path
            failed += failure.errno == errno.EIO
    assert seen + failed > 0
    if failed:      # and then it is made again
        assert f"{filled}/browse/a: " in again.log()
        tree.assert_same(expected, tree.describe(kept.browse(again, filled, "a"), exact=True),
                         exact=True)


def test_a_snapshot_from_elsewhere(mount, engine, filled, volume):
    """A file put into the store, as from a backup of it: it is a snapshot."""
    other = volume()
    made = mount()
    kept.take(made, filled, "a")
    directory = kept.store(made) / other
    directory.mkdir()
    shutil.copy(kept.stored(made, filled, "a"), directory / "copy.tar.zst")
    assert kept.listed(made, other) == ["copy"]
    kept.assert_kept(made, other, "copy", engine.mountpoint(filled))
    assert os.getxattr(kept.path(made, other, "copy"), "user.dvolfs.sha256") == os.getxattr(
        kept.path(made, filled, "a"), "user.dvolfs.sha256")


# Damage
def test_a_damaged_frame(mount, engine, volume):
    """What is in it cannot be read, all else can; it is told once, by its name."""
    name = volume()
    top = engine.mountpoint(name)
    generator = random.Random(10)
    for number in range(120):
        tree.write(top / f"f{number:03}", generator.randbytes(generator.randrange(1, 90_000)))
    tree.write(top / "large", generator.randbytes(5_000_000))
    made = mount()
    kept.take(made, name, "a")
    archive = kept.stored(made, name, "a")
    plain = run("zstd", "-q", "-dc", archive).stdout
    frames, places, at = kept.frames(archive), [], 0
    for begin, packed, size in frames:
        if size:
            places.append((begin, packed, at, at + size))
        at += size
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = [(member.name, member.offset_data, member.offset_data + member.size)
                   for member in tar if member.isfile()]
    for victim in (len(places) // 2, len(places) - 1, 0):
        made.umount()
        begin, packed, low, high = places[victim]
        kept.damage(archive, begin + packed // 2)
        made = mount(None, f"store={kept.store(made)}")
        browse = kept.browse(made, name, "a")
        hit = {path for path, first, last in members if first < high and last > low}
        for path, _, _ in members:
            try:
                assert (browse / path).read_bytes() == (top / path).read_bytes(), path
                assert path not in hit, path
            except OSError as failure:
                assert failure.errno == errno.EIO and path in hit, path
        assert sorted(os.listdir(browse)) == sorted(os.listdir(top))
        if hit:
            lines = [line for line in made.log().splitlines() if f"{name}/browse/a" in line]
            assert len(lines) == 1, lines
            # What is next to it in a large file is there as well.
            if "./large" in hit:
                fd = os.open(browse / "large", os.O_RDONLY | os.O_DIRECT)
                first = next(begin for path, begin, _ in members if path == "./large")
                expected = (top / "large").read_bytes()
                for offset in range(0, 5_000_000 - 4096, 500_000):
                    buffer = bytearray(4096)
                    sound = first + offset + 4096 <= low or first + offset >= high
                    try:
                        os.preadv(fd, [buffer], offset)
                        assert sound and buffer == expected[offset:offset + 4096]
                    except OSError as failure:
                        assert failure.errno == errno.EIO and not sound
                os.close(fd)
        kept.damage(archive, begin + packed // 2)       # and back
        run("zstd", "-q", "-t", archive)


def test_a_damaged_snapshot_is_not_restored(mount, engine, filled, volume):
    made = mount()
    kept.take(made, filled, "a")
    other = volume()
    kept.damage(kept.stored(made, filled, "a"), kept.stored(made, filled, "a").stat().st_size // 2)
    done = made.run("cp", kept.path(made, filled, "a"), made.restore(other, "x.tar.zst"))
    assert done.returncode != 0
    assert os.listdir(engine.mountpoint(other)) == []


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.999])
def test_a_truncated_snapshot(mount, filled, with_index, keep):
    """Nothing of it is shown as if it were whole: an error, and why."""
    made = mount()
    kept.take(made, filled, "a")
    kept.take(made, filled, "b")
    made.umount()
    archive = kept.stored(made, filled, "a")
    os.truncate(archive, int(archive.stat().st_size * keep) if keep < 1 else keep)
    if not with_index:
        kept.index(made, filled, "a").unlink()
    again = mount(None, f"store={kept.store(made)}")
    assert kept.refusal(os.listdir, kept.browse(again, filled, "a")) == "EIO"
    assert f"{filled}/browse/a: " in again.log()
    assert kept.refusal(os.getxattr, kept.path(again, filled, "a"), "user.dvolfs.sha256") in (
        "EIO", "EBADMSG")
    assert kept.listed(again, filled) == ["a", "b"]
    assert os.listdir(kept.browse(again, filled, "b"))
    os.rmdir(kept.browse(again, filled, "a"))       # it can be cleared away
    assert kept.listed(again, filled) == ["b"]
    assert kept.unfinished(again) == []


# Any tree
def random_tree(top, generator):
    """Anything that a volume may hold, of any size and nesting."""
    directories, files = [top], []
    for number in range(generator.randrange(5, 120)):
        directory = generator.choice(directories)
        length = generator.choice((1, 3, 20, 100, 101, 240))
        alphabet = generator.choice(("ab", "aé", " '\"\n", ".x", "日本"))
        name = "".join(generator.choices(alphabet, k=length))
        path = directory / (os.fsencode(name)[:230].decode(errors="ignore") + f"{number}")
        kind = generator.randrange(10)
        if kind < 2:
            path.mkdir()
            directories.append(path)
        elif kind == 2:
            path.symlink_to("".join(generator.choices("ab/.é", k=generator.randrange(1, 300))))
        elif kind == 3 and files:
            os.link(generator.choice(files), path)
        elif kind == 4:
            tree.scattered(path, sorted(generator.randrange(3_000_000) for _ in range(
                generator.randrange(6))), 3_000_100 + generator.randrange(3))
            files.append(path)
        elif kind == 5:
            os.mkfifo(path)
        else:
            path.write_bytes(generator.randbytes(int(10 ** generator.uniform(0, 5.5))))
            files.append(path)
        if not path.is_symlink():
            path.chmod(generator.choice((0o644, 0o4711, 0o000, 0o1777)))
            if generator.random() < 0.3 and kind != 5:
                os.setxattr(path, f"user.n{number}", generator.randbytes(generator.choice((0, 9))))
        if generator.random() < 0.3:
            os.chown(path, generator.randrange(3_000_000), 5, follow_symlinks=False)
        moment = generator.randrange(1, 2_000_000_000_000_000_000)
        os.utime(path, ns=(moment, moment), follow_symlinks=False)


def test_random_trees(mount, engine, volume):
    """Each is in its snapshot as it is, and comes back out of it."""
    volumes = [(volume(), volume()) for _ in range(15)]
    made = mount()
    for seed, (name, other) in enumerate(volumes):
        random_tree(engine.mountpoint(name), random.Random(seed))
        kept.take(made, name, "a")
        kept.assert_kept(made, name, "a", engine.mountpoint(name))
        if seed % 3 == 0:
            run("cp", kept.path(made, name, "a"), made.restore(other))
            one, two = (tree.describe(engine.mountpoint(each), exact=True)
                        for each in (name, other))
            for facts in one.values():      # the engine sets no attributes without a value
                facts["xattrs"] = {key: value for key, value in facts["xattrs"].items() if value}
            tree.assert_same(one, two)
