"""Archives made elsewhere, copied into snapshots/: checked, and kept."""
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from harness import kept, tree
from harness.command import run

COMPRESSIONS = {"tar": ["cat"], "tar.gz": ["gzip", "-n"], "tar.zst": ["zstd", "-q"],
                "tar.xz": ["xz", "-1"], "tar.bz2": ["bzip2", "-1"]}


@pytest.fixture
def source(scratch):
    """A tree with all that a tar can tell of it."""
    top = scratch / "source"
    top.mkdir()
    tree.faithful(top)
    return top


def pack(top, archive, *options):
    return tree.pack(top, archive, "--format=posix", "--xattrs", "--xattrs-include=*", "--acls",
                     "--sort=name", *options)


@pytest.fixture
def archive(source, scratch):
    return pack(source, scratch / "x.tar")


@pytest.fixture
def plain(scratch):
    """A small archive, for what is about its way in."""
    top = scratch / "plain"
    top.mkdir()
    tree.simple(top)
    return tree.pack(top, scratch / "plain.tar")


def compress(archive, extension):
    packed = archive.with_name(f"packed.{extension}")
    with open(archive, "rb") as file, open(packed, "wb") as out:
        subprocess.run(COMPRESSIONS[extension], stdin=file, stdout=out, check=True)
    return packed


def test_all_of_it_is_kept(mount, volume, source, archive, scratch):
    """By every compression; nothing of the volume is in it."""
    name = volume()
    made = mount()
    for extension in COMPRESSIONS:
        run("cp", compress(archive, extension), kept.path(made, name, extension))
    assert kept.listed(made, name) == sorted(COMPRESSIONS)
    contents = {kept.path(made, name, extension).read_bytes() for extension in COMPRESSIONS}
    assert len(contents) == 1, "they are the same snapshot"
    kept.assert_kept(made, name, "tar.xz", source)
    one = tree.describe(source, exact=True)
    del one[b"special/socket"]
    tree.assert_same(one, tree.describe(kept.unpack(kept.stored(made, name, "tar"),
                                                    scratch / "out"), exact=True))
    assert os.getxattr(kept.path(made, name, "tar"), "user.dvolfs.consistency") == b"imported"
    assert kept.unfinished(made) == [] and kept.jobs(made) == []


def shell(script):
    return lambda archive, target: run("sh", "-eu", "-c", script, "sh", archive, target)


TOOLS = {
    "cp -a": shell('cp -a "$1" "$2"'), "mv": shell('cp "$1" "$1.x"; mv "$1.x" "$2"'),
    "cat": shell('cat "$1" >"$2"'), "bash": lambda archive, target: run(
        "bash", "-c", 'cat "$1" >"$2"', "bash", archive, target),
    "append": shell('cat "$1" >>"$2"'), "in parts": shell(
        '{ head -c 3000 || :; cat; } <"$1" >"$2"'),
    "dd": shell('dd if="$1" of="$2" bs=10k status=none'),
    "dd fsync": shell('dd if="$1" of="$2" bs=1M conv=fsync status=none'),
    "tee": shell('tee "$2" <"$1" >/dev/null'), "install": shell('install -m 644 "$1" "$2"'),
    "rsync": shell('rsync "$1" "$2"'), "rsync -a": shell('rsync -a "$1" "$2"'),
    "rsync --inplace": shell('rsync --inplace "$1" "$2"'),
    "gio": shell('gio copy "$1" "$2"'), "gio -p": shell('gio copy -p "$1" "$2"'),
    "busybox cp": shell('busybox cp "$1" "$2"'), "shutil": shutil.copy2,
    "Path": lambda archive, target: target.write_bytes(archive.read_bytes()),
    "zstd": shell('zstd -q -c "$1" >"$2"'), "tar": shell('tar -C "${1%.tar}" -cf "$2" .'),
    "tar -a": shell('tar -C "${1%.tar}" -caf "$2" .'),
}


def test_every_tool_imports(mount, engine, volume, plain):
    """And takes no snapshot of the volume instead."""
    name = volume()
    (engine.mountpoint(name) / "of the volume").touch()
    made = mount()
    for number, tool in enumerate(TOOLS):
        snapshot = f"s{number}"
        TOOLS[tool](plain, kept.path(made, name, snapshot))
        assert (kept.browse(made, name, snapshot) / "conf/app.conf").read_bytes() == \
            b"port = 8080\n", tool
        assert not (kept.browse(made, name, snapshot) / "of the volume").exists(), tool
    assert len(kept.listed(made, name)) == len(TOOLS)
    in_parts = f"s{list(TOOLS).index('in parts')}.tar.zst"      # its first close is told
    assert not [line for line in made.log().splitlines()
                if "not kept" in line and in_parts not in line]
    assert kept.unfinished(made) == []


def test_what_is_on_its_way_is_not_seen(mount, volume, plain):
    name = volume()
    made = mount()
    data = plain.read_bytes()
    with open(kept.path(made, name, "a"), "wb", buffering=0) as file:
        file.write(data[:50_000])
        assert kept.listed(made, name) == []
        assert not kept.path(made, name, "a").exists()
        assert not kept.browse(made, name, "a").exists()
        file.write(data[50_000:])
        assert kept.listed(made, name) == []
    assert kept.listed(made, name) == ["a"]


@pytest.mark.parametrize("temporary", [".a.tar.zst.AbC123", ".goutputstream-ABC123",
                                       "a.tar.zst.part", "a.tar.zst~"])
def test_staged_names(mount, volume, plain, temporary):
    name = volume()
    made = mount()
    staged = made.volume(name) / "snapshots" / temporary
    run("cp", plain, staged)
    assert kept.listed(made, name) == [] or temporary in os.listdir(staged.parent)
    assert staged.read_bytes() == plain.read_bytes()
    os.chmod(staged, 0o644)
    os.utime(staged, (1_700_000_000, 1_700_000_000))
    os.rename(staged, kept.path(made, name, "a"))
    assert kept.listed(made, name) == ["a"] and not staged.exists()
    run("cp", plain, staged)
    staged.unlink()
    assert not staged.exists() and kept.listed(made, name) == ["a"]


@pytest.mark.parametrize("options", [["--format=gnu", "-S"], ["--format=posix", "-S"],
                                     ["--format=v7"], ["--format=gnu", "-V", "a label"],
                                     ["--transform=s,^\\./,,"]],
                         ids=["gnu sparse", "pax sparse", "v7", "label", "plain names"])
def test_dialects(mount, volume, scratch, options):
    top = scratch / "s"
    top.mkdir()
    tree.simple(top)
    if "-S" in options:
        tree.scattered(top / "sparse", (0, 500_000, 3_000_000), 5_000_000)
    tree.whole_seconds(top)
    name = volume()
    made = mount()
    run("cp", tree.pack(top, scratch / "x.tar", *options), kept.path(made, name, "a"))
    kept.assert_kept(made, name, "a", top)
    if "-S" in options:         # holes are zeros there, and take no room
        assert kept.path(made, name, "a").stat().st_size < 310_000


def test_a_tree_without_its_directories(mount, volume, scratch):
    """As `tar -c` of single files makes it: they are there, with names to go by."""
    archive = scratch / "x.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("deep/down/file")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    name = volume()
    made = mount()
    run("cp", archive, kept.path(made, name, "a"))
    assert (kept.browse(made, name, "a") / "deep/down/file").read_bytes() == b"hello"
    run("zstd", "-q", "-t", kept.stored(made, name, "a"))


def written(archive, *members):
    with tarfile.open(archive, "w") as tar:
        for path, kind, target in members:
            member = tarfile.TarInfo(path)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return archive


FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
UNSAFE = {
    "above": [("../x", FILE, "")], "above in between": [("a/../../x", FILE, "")],
    "through a link": [("l", LINK, "/etc"), ("l/x", FILE, "")],
    "hard link to outside": [("x", HARD, "../../etc/passwd")],
    "hard link to nothing": [("x", HARD, "none")],
    "below a file": [("x", FILE, ""), ("x/y", FILE, "")],
}


@pytest.mark.parametrize("case", UNSAFE)
def test_unsafe_archives(mount, volume, scratch, case):
    name = volume()
    made = mount()
    archive = written(scratch / "x.tar", *UNSAFE[case])
    done = made.run("cp", archive, kept.path(made, name, "a"))
    if done.returncode == 0:    # it may also be kept in a way that is safe
        assert case not in ("above", "above in between", "through a link")
        assert not any(path.is_symlink() for path in kept.browse(made, name, "a").rglob("*"))
    else:
        assert f"{name}/snapshots/a.tar.zst: not kept: " in made.log()
        assert kept.listed(made, name) == []
    assert kept.unfinished(made) == []


def broken(archive, scratch):
    """What cannot be kept: each with a name."""
    yield "text", b"this is no archive\n" * 1000
    yield "zeros", bytes(100_000)
    yield "an archive of nothing", written(scratch / "n.tar").read_bytes()
    yield "one byte", b"x"
    yield "gzip of text", run("gzip", "-c", Path(__file__)).stdout
    for extension in COMPRESSIONS:
        data = compress(archive, extension).read_bytes()
        for keep in (0.05, 0.5, 0.99):
            yield f"{extension}, {keep} of it", data[:int(len(data) * keep)]
        if extension != "tar":
            half = len(data) // 2
            yield f"{extension}, damaged", data[:half] + bytes(64) + data[half + 64:]


def test_broken_archives(mount, volume, plain, scratch):
    """None is kept, each is refused with a reason, nothing stays; a sound one still works."""
    name = volume()
    made = mount()
    for number, (case, data) in enumerate(broken(plain, scratch)):
        (scratch / "bad").write_bytes(data)
        for tool in ("cp", "rsync"):
            done = made.run(tool, scratch / "bad", kept.path(made, name, f"b{number}"))
            assert done.returncode != 0, (case, tool)
            assert f"b{number}.tar.zst: not kept: " in made.log(), case
            assert os.listdir(kept.browse(made, name)) == [], case
            assert os.listdir(kept.path(made, name, "a").parent) == ["now.tar"], (case, tool)
    assert kept.unfinished(made) == []
    run("cp", plain, kept.path(made, name, "b0"))
    assert kept.listed(made, name) == ["b0"]


@pytest.mark.parametrize("command", [["cp", "/dev/null"], ["dd", "if=/dev/null"]],
                         ids=["cp", "dd"])
def test_an_empty_file_is_no_archive(mount, volume, scratch, command):
    """It is most likely a backup that failed, and not a wish to take one."""
    name = volume()
    made = mount()
    target = kept.path(made, name, "a")
    (scratch / "empty").touch()
    done = made.run("cp", scratch / "empty", target) if command[0] == "cp" else \
        made.run(*command, f"of={target}")
    assert done.returncode != 0
    assert made.run("rsync", scratch / "empty", target).returncode != 0
    assert "a.tar.zst: not kept: nothing was written" in made.log()
    made.run("sh", "-c", ': >"$1"', "sh", target)
    assert kept.listed(made, name) == []
