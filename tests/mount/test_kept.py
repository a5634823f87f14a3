"""Kept snapshots: taking, listing, renaming and deleting them, by every way to the contents."""
import datetime
import errno
import hashlib
import os
import random
import signal
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import kept, tree
from harness.command import run
from harness.wait import wait_for

SOON = 10       # "quickly", on a busy machine


@pytest.fixture
def filled(engine, volume):
    """A volume with every kind of file, as each of the ways can tell them."""
    name = volume()
    tree.everything(engine.mountpoint(name))
    tree.whole_seconds(engine.mountpoint(name))
    return name


@pytest.fixture
def small(engine, volume):
    name = volume()
    tree.simple(engine.mountpoint(name))
    tree.whole_seconds(engine.mountpoint(name))
    return name


def by_python(made, volume, name):
    kept.path(made, volume, name).touch()


TOOLS = {
    "touch": kept.take,
    "touch -c after": lambda made, volume, name: run(
        "sh", "-eu", "-c", 'touch "$1"; test -s "$1"', "sh", kept.path(made, volume, name)),
    "busybox touch": lambda made, volume, name: run("busybox", "touch",
                                                    kept.path(made, volume, name)),
    "mkdir": lambda made, volume, name: run("mkdir", kept.browse(made, volume, name)),
    "pathlib": by_python,
    "os.mkdir": lambda made, volume, name: os.mkdir(kept.browse(made, volume, name)),
}


def test_every_tool_takes_one(mount, engine, filled):
    made = mount()
    assert kept.listed(made, filled) == []
    for number, take in enumerate(TOOLS.values()):
        take(made, filled, f"s{number}")
        assert kept.listed(made, filled) == [f"s{n}" for n in range(number + 1)]
        assert kept.unfinished(made) == []
    for number in (0, 3):
        kept.assert_kept(made, filled, f"s{number}", engine.mountpoint(filled))
    contents = {kept.path(made, filled, f"s{n}").read_bytes() for n in range(len(TOOLS))}
    assert len(contents) == 1, "nothing changed meanwhile"
    assert kept.jobs(made) == []


def test_it_opens_without_dvolfs(mount, engine, filled, scratch):
    """The file in the store is a .tar.zst, and the volume is in it."""
    made = mount()
    kept.take(made, filled, "a")
    archive = kept.stored(made, filled, "a")
    run("zstd", "-q", "-t", archive)
    tree.assert_same(engine.mountpoint(filled), kept.unpack(archive, scratch / "out"))
    plain = run("zstd", "-q", "-dc", archive).stdout
    assert plain == made.now(filled).read_bytes(), "the same as now.tar"
    assert archive.read_bytes() == kept.path(made, filled, "a").read_bytes()


def test_any_byte_by_the_seek_table(mount, filled):
    """As anybody's reader of the zstd seekable format finds it."""
    made = mount()
    kept.take(made, filled, "a")
    archive = kept.stored(made, filled, "a")
    plain = run("zstd", "-q", "-dc", archive).stdout
    frames = kept.frames(archive)
    assert sum(bytes_ for _, _, bytes_ in frames) == len(plain)
    assert len(frames) > len(plain) // (2 << 20)
    assert max(bytes_ for _, _, bytes_ in frames) <= 2 << 20
    generator = random.Random(3)
    for offset in (0, len(plain) - 1000, *(generator.randrange(len(plain)) for _ in range(6))):
        assert kept.seek(archive, offset, 1000) == plain[offset:offset + 1000]
    listing = run("zstd", "-l", archive).stdout.decode().splitlines()[1].split()
    assert int(listing[0]) == len(frames) + 1, "with the table"


def test_what_is_said_of_it(mount, small):
    made = mount()
    before = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    archive = kept.take(made, small, "a")
    after = datetime.datetime.now(datetime.timezone.utc)
    data = archive.read_bytes()
    digest = os.getxattr(archive, "user.dvolfs.sha256").decode()
    assert digest == hashlib.sha256(data).hexdigest()
    assert digest == run("sha256sum", archive).stdout.decode().split()[0]
    taken = datetime.datetime.fromisoformat(
        os.getxattr(archive, "user.dvolfs.taken").decode().replace("Z", "+00:00"))
    assert before <= taken <= after
    assert os.getxattr(archive, "user.dvolfs.consistency") == b"live"
    assert sorted(os.listxattr(archive)) == ["user.dvolfs.consistency", "user.dvolfs.sha256",
                                             "user.dvolfs.taken"]
    names = run("bsdtar", "-tf", archive).stdout.splitlines()   # which knows zstd itself
    assert names[0] == b"./" and b"./conf/app.conf" in names
    status = os.stat(archive)
    assert status.st_size == len(data) and stat.S_ISREG(status.st_mode)
    assert status.st_mode & 0o777 == 0o600
    assert before.timestamp() - 1 <= status.st_mtime <= after.timestamp() + 1
    with open(archive, "rb") as file:
        assert os.fstat(file.fileno()).st_size == len(data)
    listing = run("ls", "-l", archive.parent).stdout.decode().splitlines()
    assert [line.split()[4] for line in listing if line.endswith("a.tar.zst")] == [str(len(data))]


@pytest.mark.parametrize("tool", ["cp", "cat", "dd", "rsync", "gio", "mmap"])
def test_every_tool_reads_it(mount, small, scratch, tool):
    made = mount()
    archive, target = kept.take(made, small, "a"), scratch / "out"
    commands = {"cp": ["cp", archive, target], "rsync": ["rsync", "-t", archive, target],
                "gio": ["gio", "copy", archive, target],
                "dd": ["dd", f"if={archive}", f"of={target}", "iflag=direct", "status=none"],
                "cat": ["sh", "-c", 'cat "$1" >"$2"', "sh", archive, target],
                "mmap": ["python3", "-c", "import mmap, sys; f = open(sys.argv[1], 'rb'); "
                         "open(sys.argv[2], 'wb').write(mmap.mmap(f.fileno(), 0, access=1))",
                         archive, target]}
    run(*commands[tool])
    assert target.read_bytes() == kept.stored(made, small, "a").read_bytes()


# Names
NO_NAMES = ["-a", "_a", ".a", "a b", "ä", "a\nb", "a:b", "a+b", "x" * 248, "now"]
NAMES = ["0", "a.b", "a_b-c.D", "a..b", "2026-11-22T093000Z", "x.tar", "x" * 200, "nowhere",
         "a.index", "a.tar.zst"]


def test_names(mount, small):
    made = mount()
    for name in NAMES:
        kept.take(made, small, name)
    assert kept.listed(made, small) == sorted(NAMES)
    for name in NAMES:
        assert os.stat(kept.path(made, small, name)).st_size > 0
        assert sorted(os.listdir(kept.browse(made, small, name))) == sorted(
            os.listdir(kept.browse(made, small, "0")))
    for name in NAMES:
        os.rmdir(kept.browse(made, small, name))
    assert kept.listed(made, small) == []


@pytest.mark.parametrize("name", NO_NAMES, ids=range(len(NO_NAMES)))
def test_names_that_none_may_have(mount, small, name):
    made = mount()
    kept.take(made, small, "good")
    expected = ("EINVAL", "ENAMETOOLONG") if len(name) > 200 else (
        ("EEXIST", "EINVAL", "EROFS", "EPERM") if name == "now" else ("EINVAL",))
    lines = len(made.log().splitlines())
    for call in (by_python, TOOLS["os.mkdir"]):
        assert kept.refusal(call, made, small, name) in expected
        if len(name) < 200:
            assert len(made.log().splitlines()) > lines, "with its reason"
            lines = len(made.log().splitlines())
    for one, other in ((kept.path(made, small, "good"), kept.path(made, small, name)),
                       (kept.browse(made, small, "good"), kept.browse(made, small, name))):
        # Names beginning with a dot are those of what is not complete.
        assert kept.refusal(os.rename, one, other) in (*expected, "EEXIST")
    assert kept.listed(made, small) == ["good"]


@pytest.mark.parametrize("file_name", ["a", "a.tar", "a.zst", "a.tar.gz", "a.tar.zst.txt",
                                       ".tar.zst", "a.TAR.ZST"])
def test_other_file_names(mount, small, file_name):
    made = mount()
    target = made.volume(small) / "snapshots" / file_name
    assert kept.refusal(target.touch) == "EINVAL"
    assert file_name in made.log()
    assert kept.listed(made, small) == []


def test_nothing_else_is_made_here(mount, small):
    made = mount()
    kept.take(made, small, "a")
    snapshots, browse = kept.path(made, small, "b").parent, kept.browse(made, small)
    before = kept.path(made, small, "a").read_bytes()
    for call in (lambda: os.mkdir(snapshots / "d.tar.zst"),
                 lambda: os.symlink("a", snapshots / "l.tar.zst"),
                 lambda: os.link(snapshots / "a.tar.zst", snapshots / "l.tar.zst"),
                 lambda: os.mkfifo(snapshots / "f.tar.zst"),
                 lambda: os.symlink("a", browse / "l"), lambda: (browse / "f").touch(),
                 lambda: os.unlink(snapshots / "now.tar"),
                 lambda: os.rename(snapshots / "now.tar", snapshots / "n.tar.zst"),
                 lambda: os.truncate(snapshots / "a.tar.zst", 0),
                 lambda: open(snapshots / "a.tar.zst", "ab"),
                 lambda: (browse / "a" / "new").touch(), lambda: os.unlink(browse / "a/data.bin"),
                 lambda: os.chmod(browse / "a/data.bin", 0), lambda: os.mkdir(browse / "a/d"),
                 lambda: open(browse / "a/data.bin", "r+b"),
                 lambda: os.rename(browse / "a/conf", browse / "conf"),
                 lambda: os.rename(snapshots / "a.tar.zst", browse / "c")):
        assert kept.refusal(call) not in ("EIO", "ENOSYS", "ENOENT", "ESTALE")
    assert kept.listed(made, small) == ["a"]
    assert kept.path(made, small, "a").read_bytes() == before


def test_a_name_is_taken_once(mount, engine, small):
    """However the second is made: the first stays."""
    made = mount()
    archive = kept.take(made, small, "a")
    first = archive.read_bytes()
    (engine.mountpoint(small) / "new").write_bytes(b"new")
    source = kept.stored(made, small, "a")
    for command in (["touch", archive], ["busybox", "touch", archive], ["cp", source, archive],
                    ["mkdir", kept.browse(made, small, "a")], ["rsync", "--ignore-times", source, archive],
                    ["gio", "copy", source, archive], 
                    ["rsync", "--inplace", "--ignore-times", source, archive],
                    ["sh", "-c", 'cat "$1" >"$2"', "sh", source, archive]):
        done = made.run(*command)
        assert done.returncode != 0 and "exists" in done.stderr, command
    assert kept.refusal(by_python, made, small, "a") == "EEXIST"
    assert archive.read_bytes() == first and kept.listed(made, small) == ["a"]
    assert kept.unfinished(made) == []


def test_one_of_several_at_once_gets_the_name(mount, engine, small):
    made = mount()
    source = made.home / "x.tar"
    run("cp", made.now(small), source)
    for turn in range(5):
        name = f"s{turn}"
        commands = [["touch", kept.path(made, small, name)],
                    ["mkdir", kept.browse(made, small, name)],
                    ["cp", source, kept.path(made, small, name)]] * 2
        with ThreadPoolExecutor(len(commands)) as pool:
            done = list(pool.map(lambda command: made.run(*command), commands))
        assert [one.returncode for one in done].count(0) == 1, [one.stderr for one in done]
        assert all("exists" in one.stderr or "busy" in one.stderr
                   for one in done if one.returncode != 0), [one.stderr for one in done]
        kept.assert_kept(made, small, name, engine.mountpoint(small))
    assert kept.unfinished(made) == []


def test_many_at_once(mount, engine, small, volume):
    """Of one volume and of others."""
    others = [volume() for _ in range(2)]
    for name in others:
        tree.simple(engine.mountpoint(name))
        tree.whole_seconds(engine.mountpoint(name))
    made = mount()
    wanted = [(name, f"s{n}") for name in (small, *others) for n in range(4)]
    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(lambda one: kept.take(made, *one), wanted))
    for name in (small, *others):
        assert kept.listed(made, name) == ["s0", "s1", "s2", "s3"]
        assert len({kept.path(made, name, f"s{n}").read_bytes() for n in range(4)}) == 1
        kept.assert_kept(made, name, "s3", engine.mountpoint(name))


# Renaming and deleting
def test_renaming(mount, engine, small):
    made = mount()
    top = engine.mountpoint(small)
    first = kept.take(made, small, "a").read_bytes()
    looks = (lambda name: kept.path(made, small, name).read_bytes() == first,
             lambda name: os.getxattr(kept.path(made, small, name), "user.dvolfs.sha256"),
             lambda name: os.stat(kept.path(made, small, name)).st_size == len(first),
             lambda name: (kept.browse(made, small, name) / "conf/app.conf").read_bytes(),
             lambda name: os.listdir(kept.browse(made, small, name)),
             lambda name: os.stat(kept.browse(made, small, name)).st_uid == top.stat().st_uid)
    at = "a"
    for number, look in enumerate(looks):   # each the first thing that is done after it
        for rename in (kept.path, kept.browse):
            to = f"{rename.__name__}{number}"
            run("mv", rename(made, small, at), rename(made, small, to))
            assert look(to)
            assert kept.listed(made, small) == [to]
            assert not kept.path(made, small, at).exists()
            assert not kept.browse(made, small, at).exists()
            at = to
    kept.assert_kept(made, small, at, top)
    made.umount()
    assert sorted(os.listdir(kept.store(made) / small)) == [f"{at}.index", f"{at}.tar.zst"]


def test_renaming_never_replaces(mount, engine, small):
    made = mount()
    top = engine.mountpoint(small)
    one = kept.take(made, small, "a").read_bytes()
    tree.write(top / "new", b"new")
    two = kept.take(made, small, "b").read_bytes()
    assert one != two
    for place in (kept.path, kept.browse):
        a, b = place(made, small, "a"), place(made, small, "b")
        assert kept.refusal(os.rename, a, b) == "EEXIST"
        assert made.run("mv", "-f", "-T", a, b).returncode != 0
        os.rename(a, a)
        assert kept.refusal(os.rename, place(made, small, "none"), b) == "ENOENT"
    assert kept.listed(made, small) == ["a", "b"]
    assert kept.path(made, small, "a").read_bytes() == one
    assert kept.path(made, small, "b").read_bytes() == two
    assert not (kept.browse(made, small, "a") / "new").exists()
    assert (kept.browse(made, small, "b") / "new").read_bytes() == b"new"


def test_deleting(mount, small):
    made = mount()
    for name in "abcd":
        kept.take(made, small, name)
    run("rm", kept.path(made, small, "a"))
    run("rmdir", kept.browse(made, small, "b"))
    run("rm", "-f", kept.path(made, small, "c"))
    assert made.run("rm", "-r", kept.browse(made, small, "d")).returncode != 0
    assert kept.listed(made, small) == ["d"]
    assert sorted(os.listdir(kept.store(made) / small)) == ["d.index", "d.tar.zst"]
    assert kept.refusal(os.unlink, kept.path(made, small, "a")) == "ENOENT"
    assert kept.refusal(os.rmdir, kept.browse(made, small, "a")) == "ENOENT"
    assert kept.refusal(os.stat, kept.browse(made, small, "b")) == "ENOENT"
    kept.take(made, small, "a")     # the name is free again
    assert kept.listed(made, small) == ["a", "d"]


def test_deleting_and_taking_again_is_another(mount, engine, small):
    """Nothing that was known of the first is told of the second."""
    made = mount()
    file = engine.mountpoint(small) / "number"
    for number in range(5):
        file.write_text(f"{number}")
        kept.take(made, small, "a")
        assert (kept.browse(made, small, "a") / "number").read_text() == f"{number}"
        assert hashlib.sha256(kept.path(made, small, "a").read_bytes()).hexdigest() == \
            os.getxattr(kept.path(made, small, "a"), "user.dvolfs.sha256").decode()
        (os.unlink if number % 2 else lambda path: os.rmdir(kept.browse(made, small, "a")))(
            kept.path(made, small, "a"))


def test_they_outlive_the_mount(mount, engine, small):
    made = mount()
    first = kept.take(made, small, "a").read_bytes()
    made.umount()
    again = mount(None, f"store={kept.store(made)}")
    assert kept.listed(again, small) == ["a"]
    assert kept.path(again, small, "a").read_bytes() == first
    kept.assert_kept(again, small, "a", engine.mountpoint(small))


# Back into a volume
@pytest.mark.parametrize("from_name", ["a.tar.zst", "now.tar", "now.tar.gz"])
def test_clone(mount, engine, filled, volume, scratch, from_name):
    """cp from one volume into another's restore/ does not carry the bytes itself."""
    other = volume()
    made = mount()
    kept.take(made, filled, "a")
    source = made.volume(filled) / "snapshots" / from_name
    size = os.stat(source).st_size
    trace = scratch / "trace"
    run("strace", "-o", trace, "-e", "trace=read,write,pread64,pwrite64,sendfile,splice,"
        "copy_file_range", "cp", source, made.restore(other))
    carried = copied = 0
    for line in trace.read_text().splitlines():
        call, _, result = line.partition("(")[0], *line.rpartition(" = ")[1:]
        if result.split()[0].isdigit():
            copied += int(result.split()[0]) if call == "copy_file_range" else 0
            carried += int(result.split()[0]) if call != "copy_file_range" else 0
    assert copied == size and carried < 100_000
    tree.assert_same(engine.mountpoint(filled), engine.mountpoint(other))


# Interrupting
MEGABYTES = 200


def fill_with_much(top, megabytes):
    """Data that takes a while to compress."""
    block = bytes(random.Random(4).choices(range(64), k=1 << 20))
    with open(top / "much", "wb") as file:
        for number in range(megabytes):
            file.write(b"%9d" % number + block[9:])


@pytest.fixture
def large(engine, volume):
    name = volume()
    fill_with_much(engine.mountpoint(name), MEGABYTES)
    return name


def interrupted(made, command, kind, number=signal.SIGINT):
    """Run a command and interrupt it once that job is under way; how it ended."""
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE)
    def under_way():
        assert process.poll() is None, f"{command} ended by itself: {process.returncode}"
        return any(job[0] == kind and int(job[2]) > 0 for job in kept.jobs(made))
    wait_for(under_way, f"the {kind} is under way", 60)
    process.send_signal(number)
    process.communicate(timeout=SOON)
    return process.returncode


@pytest.mark.parametrize("tool", ["touch", "mkdir", "cp"])
def test_interrupted(mount, engine, large, scratch, tool, way):
    """Nothing stays of it, soon; and the next one works."""
    made = mount()
    command, kind = {
        "touch": (["touch", kept.path(made, large, "a")], "take"),
        "mkdir": (["mkdir", kept.browse(made, large, "a")], "take"),
        "cp": (["cp", scratch / "x.tar", kept.path(made, large, "a")], "import")}[tool]
    if tool == "cp":
        tree.pack(engine.mountpoint(large), scratch / "x.tar")
    number = signal.SIGKILL if tool == "mkdir" else signal.SIGINT
    assert interrupted(made, command, kind, number) != 0
    wait_for(lambda: not kept.jobs(made), "the job ends", SOON)
    assert kept.listed(made, large) == [] and kept.unfinished(made) == []
    if tool == "touch":
        kept.take(made, large, "a")
        run("zstd", "-q", "-t", kept.stored(made, large, "a"))
        assert (kept.browse(made, large, "a") / "much").stat().st_size == MEGABYTES << 20
    if way != "local":
        engine.wait_no_helpers()


def test_jobs(mount, engine, large, volume, scratch):
    """What runs is told, with how far it is; and nothing when nothing runs."""
    made = mount()
    other = volume()
    run("touch", kept.path(made, large, "a"))
    tree.pack(engine.mountpoint(large), scratch / "x.tar")
    wanted = {"take": ["touch", kept.path(made, large, "b")],
              "import": ["cp", scratch / "x.tar", kept.path(made, large, "c")],
              "restore": ["cp", kept.path(made, large, "a"), made.restore(other)],
              "compress": ["sh", "-c", 'cat "$1" >/dev/null', "sh",
                           made.volume(large) / "snapshots/now.tar.zst"]}
    # A file that has changed is read again.
    with open(engine.mountpoint(large) / "much", "r+b") as file:
        file.write(b"changed")
    size = (engine.mountpoint(large) / "much").stat().st_size
    for kind, command in wanted.items():
        seen = []
        process = subprocess.Popen([str(word) for word in command])
        def watch():
            seen.extend(job for job in kept.jobs(made) if job[0] == kind)
            return process.poll() is not None
        wait_for(watch, f"{kind} is done", 60)
        assert process.returncode == 0, kind
        where = other if kind == "restore" else large
        assert all(job[1].startswith(f"{where}/") and len(job) == 6 for job in seen), seen
        numbers = [(int(job[2]), int(job[3]), job[4], job[5]) for job in seen if job[3] != "-"]
        assert any(0 < done < total and total >= size and int(rate) > 0 and left.isdigit()
                   for done, total, rate, left in numbers if rate != "-"), (kind, seen[:3])
        assert [done for done, *_ in numbers] == sorted(done for done, *_ in numbers), kind
        assert kept.jobs(made) == []


# Who
@pytest.mark.access("agent")
def test_an_ordinary_user(mount, namespace, engine, volume):
    name = volume()
    top = engine.mountpoint(name)
    tree.simple(top)
    tree.whole_seconds(top)
    made = mount(user=mount.user(), namespace=namespace)
    def user(*command):
        done = made.run(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout
    user("touch", kept.path(made, name, "a"))
    user("mkdir", kept.browse(made, name, "b"))
    user("cp", made.now(name), made.home / "x.tar")
    user("cp", made.home / "x.tar", kept.path(made, name, "c"))
    user("mv", kept.path(made, name, "a"), kept.path(made, name, "d"))
    user("rmdir", kept.browse(made, name, "b"))
    assert sorted(user("ls", kept.browse(made, name)).split()) == ["c", "d"]
    for snapshot in "cd":
        assert user("cat", kept.browse(made, name, snapshot) / "conf/app.conf") == "port = 8080\n"
        listing = user("stat", "-c", "%n %s %u %g %f %Y", "--",
                       *(kept.browse(made, name, snapshot) / below
                         for below in ("", "conf", "data.bin", "app.conf")))
        assert listing.replace(str(kept.browse(made, name, snapshot)), "") == run(
            "stat", "-c", "%n %s %u %g %f %Y", "--",
            *(top / below for below in ("", "conf", "data.bin", "app.conf"))
        ).stdout.decode().replace(str(top), "").replace(" 4096 ", " 0 ")
    tree.assert_same(top, kept.unpack(kept.stored(made, name, "d"), made.home / "out"))
    assert kept.store(made).stat().st_uid == made.user.uid
    assert kept.stored(made, name, "d").stat().st_mode & 0o077 == 0
    user("rm", kept.path(made, name, "c"), kept.path(made, name, "d"))
    assert user("ls", kept.path(made, name, "c").parent) == "now.tar\n"


def test_without_a_volume(mount, engine, small):
    """What is gone meanwhile is not taken."""
    made = mount()
    directory = os.open(kept.path(made, small, "a").parent, os.O_RDONLY)
    engine.remove_volume(small)
    with pytest.raises(OSError) as failure:
        os.close(os.open("a.tar.zst", os.O_WRONLY | os.O_CREAT, dir_fd=directory))
    os.close(directory)
    assert failure.value.errno in (errno.ENOENT, errno.ESTALE)
    assert kept.unfinished(made) == []
    assert not Path(kept.stored(made, small, "a")).exists()
