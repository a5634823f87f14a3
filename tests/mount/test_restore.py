"""Restore: an archive copied into restore/ is in the volume when the copy returns."""
import errno
import os
import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import tree
from harness.command import run
from harness.proxy import Stall
from harness.wait import wait_for

COMPRESSIONS = {
    "tar": ["cat"], "tar.gz": ["gzip", "-n"], "tgz": ["gzip", "-1"], "tar.zst": ["zstd", "-q"],
    "tzst": ["zstd", "-q", "-19"], "tar.xz": ["xz"], "txz": ["xz", "-0"], "tar.bz2": ["bzip2"],
    "tbz2": ["bzip2", "-1"],
}


def shell(script):
    return lambda archive, target: run("sh", "-eu", "-c", script, "sh", archive, target)


def by_shutil(archive, target):
    shutil.copy(archive, target)


def small_writes(archive, target):
    """Python's own file, in odd pieces."""
    with open(target, "wb", buffering=0) as file:
        data = archive.read_bytes()
        for offset in range(0, len(data), 7777):
            file.write(data[offset:offset + 7777])


TOOLS = {
    "cp": shell('cp "$1" "$2"'),
    "cp -p": shell('cp -p "$1" "$2"'),
    "cp -a": shell('cp -a "$1" "$2"'),
    "mv": shell('mkdir -p "$1.d"; cp "$1" "$1.d"; mv "$1.d/${1##*/}" "$2"; rmdir "$1.d"'),
    "cat": shell('cat "$1" >"$2"'),
    "dd": shell('dd if="$1" of="$2" bs=10k status=none'),
    "dd fsync": shell('dd if="$1" of="$2" bs=1M conv=fsync status=none'),
    "tee": shell('tee "$2" <"$1" >/dev/null'),
    "rsync": shell('rsync "$1" "$2"'),
    "rsync -t": shell('rsync -t "$1" "$2"'),
    "rsync -a": shell('rsync -a "$1" "$2"'),
    "rsync --inplace": shell('rsync --inplace "$1" "$2"'),
    "rsync --whole-file --fsync": shell('rsync --whole-file --fsync "$1" "$2"'),
    "gio": shell('gio copy "$1" "$2"'),
    "gio -p": shell('gio copy -p "$1" "$2"'),
    "install": shell('install -m 644 "$1" "$2"'),
    "busybox cp": shell('busybox cp "$1" "$2"'),
    "tar": shell('tar -C "${1%.tar}" -cf "$2" .'),
    "bsdtar": shell('bsdtar -C "${1%.tar}" -cf "$2" .'),
    "shutil": by_shutil,
    "small writes": small_writes,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_restores(mount, engine, volume, source, archive, scratch, tool):
    os.symlink("source", scratch / "x")       # what tar packs by itself
    name = volume()
    made = mount()
    TOOLS[tool](archive, made.restore(name, "x.tar"))
    tree.assert_same(source, engine.mountpoint(name))
    assert os.listdir(made.restore(name)) == ["x.tar"]
    engine.wait_no_helpers()


@pytest.mark.parametrize("tool", ["cp", "rsync", "rsync -t", "gio", "mv", "shutil"])
def test_into_the_directory(mount, engine, volume, source, archive, tool):
    name = volume()
    made = mount()
    target = made.restore(name) if tool != "shutil" else str(made.restore(name))
    if tool == "shutil":
        shutil.copy(archive, target)
    else:
        TOOLS[tool](archive, f"{target}/")
    tree.assert_same(source, engine.mountpoint(name))


@pytest.mark.parametrize("extension", COMPRESSIONS)
def test_every_compression(mount, engine, volume, source, archive, scratch, extension):
    packed = scratch / f"backup.{extension}"
    with open(archive, "rb") as plain, open(packed, "wb") as out:
        subprocess.run(COMPRESSIONS[extension], stdin=plain, stdout=out, check=True)
    name = volume()
    made = mount()
    run("cp", packed, made.restore(name))
    tree.assert_same(source, engine.mountpoint(name))


def test_a_name_that_says_the_wrong_compression(mount, engine, volume, source, archive, scratch):
    """The content counts."""
    packed = scratch / "backup.tar"
    with open(archive, "rb") as plain, open(packed, "wb") as out:
        subprocess.run(["zstd", "-q"], stdin=plain, stdout=out, check=True)
    name = volume()
    run("cp", packed, mount().restore(name))
    tree.assert_same(source, engine.mountpoint(name))


@pytest.mark.parametrize("dialect", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_every_dialect(mount, engine, volume, source, scratch, dialect):
    if dialect in ("oldgnu", "gnu", "posix"):
        tree.write(source / ("long" * 60), b"long")
        os.symlink("y" * 300, source / "longlink")
    archive = tree.pack(source, scratch / "y.tar", f"--format={dialect}")
    name = volume()
    run("cp", archive, mount().restore(name))
    tree.assert_same(source, engine.mountpoint(name))


@pytest.mark.parametrize("options", [["--format=gnu", "-S"], ["--format=posix", "-S"],
                                     ["--format=gnu", "-V", "a label"],
                                     ["--format=posix", "-V", "a label"],
                                     ["--format=gnu", "--blocking-factor=1"],
                                     ["--format=gnu", "--incremental"]],
                         ids=["gnu sparse", "pax sparse", "gnu label", "pax label", "blocking",
                              "incremental"])
def test_what_the_engine_cannot_read_is_converted(mount, engine, volume, source, scratch, options):
    with open(source / "sparse", "wb") as file:
        for offset in (0, 500_000, 3_000_000):
            file.seek(offset)
            file.write(b"data")
        file.truncate(5_000_000)
    archive = tree.pack(source, scratch / "y.tar", *options)
    name = volume()
    run("cp", archive, mount().restore(name))
    tree.assert_same(source, engine.mountpoint(name))


def test_everything_comes_back(mount, engine, volume, scratch):
    """now.tar of one volume into another: the same tree, its root's owner and mode too."""
    one, other = volume(), volume()
    tree.everything(engine.mountpoint(one))
    made = mount()
    run("cp", made.now(one), made.restore(other))
    tree.assert_same(engine.mountpoint(one), engine.mountpoint(other))
    run("cp", made.now(other), scratch / "y.tar")
    assert [line for line in tree.tar_differences(scratch / "y.tar", engine.mountpoint(one))
            if "Mod time" not in line] == []


def test_what_the_archive_has_beyond_the_engines_own(mount, engine, volume, source, scratch):
    """Fractions of a second and attributes that a user's archive holds arrive."""
    tree.with_socket(source)
    archive = tree.pack(source, scratch / "y.tar", "--format=posix", "--xattrs",
                        "--xattrs-include=*")
    (source / "socket").unlink()
    name = volume()
    run("cp", archive, mount().restore(name))
    one = tree.describe(source, exact=True)
    other = tree.describe(engine.mountpoint(name), exact=True)
    for facts in (one[b"."], other[b"."]):
        facts["mtime"] = 0      # that of the source's root changed with the socket
    tree.assert_same(one, other)


@pytest.mark.parametrize("prefix", [[], ["--transform=s,^\\./,,"]], ids=["dotted", "plain"])
def test_prefixes_stand_as_they_are(mount, engine, volume, source, scratch, prefix):
    archive = tree.pack(source, scratch / "y.tar", *prefix)
    name = volume()
    run("cp", archive, mount().restore(name))
    tree.assert_same(source, engine.mountpoint(name))


def test_a_directory_in_front_is_kept(mount, engine, volume, source, scratch):
    archive = scratch / "y.tar"
    run("tar", "-C", scratch, "-cf", archive, "source")
    name = volume()
    run("cp", archive, mount().restore(name))
    assert os.listdir(engine.mountpoint(name)) == ["source"]
    tree.assert_same(source, engine.mountpoint(name) / "source")


def test_an_archive_without_a_root_leaves_the_root_alone(mount, engine, volume, source, scratch):
    archive = scratch / "y.tar"
    run("tar", "-C", source, "-cf", archive, "conf", "data.bin")
    name = volume()
    os.chown(engine.mountpoint(name), 4321, 4321)
    os.chmod(engine.mountpoint(name), 0o700)
    run("cp", archive, mount().restore(name))
    status = os.stat(engine.mountpoint(name))
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (4321, 4321, 0o700)


def test_over_a_volume_that_is_not_empty(mount, engine, volume, source, archive):
    """As tar x: what the archive has replaces, the rest stays."""
    name = volume()
    top = engine.mountpoint(name)
    tree.simple(top)
    tree.write(top / "mine", b"mine", 0o600)
    tree.write(top / "conf/mine", b"mine")
    tree.write(top / "conf/app.conf", b"old and rather longer than the new one\n")
    tree.write(top / "data.bin", b"short")
    os.unlink(top / "app.conf")
    tree.write(top / "app.conf", b"a file where a link will be")
    run("cp", archive, mount().restore(name))
    assert (top / "mine").read_bytes() == b"mine" and (top / "conf/mine").read_bytes() == b"mine"
    (top / "mine").unlink()
    (top / "conf/mine").unlink()
    shutil.copystat(source / "conf", top / "conf")
    shutil.copystat(source, top)
    tree.assert_same(source, top)


def test_links_are_replaced_not_followed(mount, engine, volume, scratch):
    name = volume()
    top = engine.mountpoint(name)
    tree.write(top / "target", b"keep me")
    os.symlink("target", top / "file")
    os.link(top / "target", top / "other")
    source = scratch / "s"
    source.mkdir()
    tree.write(source / "file", b"new")
    tree.write(source / "other", b"new")
    run("cp", tree.pack(source, scratch / "y.tar"), mount().restore(name))
    assert (top / "target").read_bytes() == b"keep me"
    assert not (top / "file").is_symlink() and (top / "file").read_bytes() == b"new"
    assert (top / "other").read_bytes() == b"new"


def test_an_archive_of_nothing_is_refused(mount, engine, volume, scratch):
    """It is more likely a backup that failed than one that was meant."""
    with tarfile.open(scratch / "y.tar", "w"):
        pass
    name = volume()
    tree.simple(engine.mountpoint(name))
    before = tree.describe(engine.mountpoint(name), exact=True)
    made = mount()
    done = made.run("cp", scratch / "y.tar", made.restore(name))
    assert done.returncode != 0 and os.strerror(errno.EINVAL) in done.stderr
    tree.assert_same(before, tree.describe(engine.mountpoint(name), exact=True))


def test_the_same_name_again(mount, engine, volume, source, archive, scratch):
    """A second copy over the receipt restores again, with every kind of tool."""
    name = volume()
    made = mount()
    for number, tool in enumerate(["cp", "cp", "rsync", "rsync -t", "gio", "cat", "mv"]):
        tree.write(source / "number", str(number).encode())
        tree.pack(source, archive)
        TOOLS[tool](archive, made.restore(name, "x.tar"))
        assert (engine.mountpoint(name) / "number").read_text() == str(number), tool


def test_receipt(mount, engine, volume, archive):
    name = volume()
    made = mount()
    run("cp", archive, made.restore(name, "x.tar"))
    receipt = made.restore(name, "x.tar")
    text = receipt.read_text()
    assert 0 < len(text) < 4096 and name in text
    assert os.stat(receipt).st_size == len(text.encode())
    assert name in made.log()
    receipt.unlink()
    assert os.listdir(made.restore(name)) == []
    assert not receipt.exists()
    run("cp", archive, made.restore(name, "y.tar"))
    made.umount()
    again = mount()
    assert os.listdir(again.restore(name)) == []


def test_receipt_of_a_refusal(mount, engine, volume, scratch):
    name = volume()
    made = mount()
    tree.write(scratch / "y.tar", b"this is no archive" * 1000)
    assert made.run("cp", scratch / "y.tar", made.restore(name)).returncode != 0
    text = made.restore(name, "y.tar").read_text()
    assert "archive" in text
    assert name in made.log()
    made.restore(name, "y.tar").unlink()


def test_what_linux_has_no_attributes_for_is_left_out(mount, engine, volume, scratch):
    """As in an archive from a Mac: the files come, and the receipt tells."""
    name = volume()
    made = mount()
    with tarfile.open(scratch / "x.tar", "w", format=tarfile.PAX_FORMAT) as out:
        for member in ("a", "b"):
            info = tarfile.TarInfo(member)
            info.pax_headers = {"SCHILY.xattr.com.apple.quarantine": "x",
                                "SCHILY.xattr.user.kept": "y"}
            out.addfile(info)
    run("cp", scratch / "x.tar", made.restore(name))
    assert "\nwithout: 2 attributes " in made.restore(name, "x.tar").read_text()
    for member in ("a", "b"):
        assert os.listxattr(engine.mountpoint(name) / member) == ["user.kept"]


def test_touching_up_afterwards(mount, engine, volume, archive, source):
    name = volume()
    made = mount()
    target = made.restore(name, "x.tar")
    run("cp", archive, target)
    before = tree.describe(engine.mountpoint(name), exact=True)
    os.chmod(target, 0o600)
    os.chown(target, 0, 0)
    os.utime(target, (1_700_000_000, 1_700_000_000))
    run("touch", "-r", archive, target)
    tree.assert_same(before, tree.describe(engine.mountpoint(name), exact=True))


# Temporary names: once, on the final name.
@pytest.mark.parametrize("tool", ["rsync", "rsync -t", "rsync -a", "gio", "mv"])
def test_a_temporary_name_restores_once(mount, proxy, engine, volume, source, archive, tool):
    name, other = volume(), volume()
    made = mount(proxy)
    TOOLS["cp"](archive, made.restore(other, "x.tar"))
    once = proxy.count("PUT */archive")
    assert once >= 1
    for _ in range(2):              # the second time over the receipt
        proxy.forget()
        TOOLS[tool](archive, made.restore(name, "x.tar"))
        assert proxy.count("PUT */archive") == once
    tree.assert_same(source, engine.mountpoint(name))


@pytest.mark.parametrize("temporary", [".x.tar.AbC123", ".goutputstream-ABC123", "x.tar.part",
                                       "x.tar~", ".hidden", "x.tar.partial~"])
def test_staged_names(mount, proxy, engine, volume, source, archive, temporary):
    """They are kept until they are renamed, or forgotten when they are removed."""
    name = volume()
    made = mount(proxy)
    staged = made.restore(name, temporary)
    run("cp", archive, staged)
    assert proxy.count("PUT */archive") == 0
    assert os.listdir(engine.mountpoint(name)) == []
    assert os.stat(staged).st_size == archive.stat().st_size
    assert staged.read_bytes() == archive.read_bytes()
    staged.unlink()
    assert not staged.exists() and os.listdir(engine.mountpoint(name)) == []

    run("cp", archive, staged)
    os.chmod(staged, 0o644)
    os.utime(staged, (1_700_000_000, 1_700_000_000))
    os.rename(staged, made.restore(name, "x.tar"))
    tree.assert_same(source, engine.mountpoint(name))
    assert os.listdir(made.restore(name)) == ["x.tar"]


def test_rename_while_open(mount, engine, volume, source, archive):
    """As gio does over an existing file: fsync, rename, then close."""
    name = volume()
    made = mount()
    fd = os.open(made.restore(name, ".goutputstream-XYZ123"), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, archive.read_bytes())
    os.fsync(fd)
    assert os.listdir(engine.mountpoint(name)) == []
    os.rename(made.restore(name, ".goutputstream-XYZ123"), made.restore(name, "x.tar"))
    os.close(fd)
    tree.assert_same(source, engine.mountpoint(name))


def test_rename_of_a_broken_archive_fails(mount, engine, volume, archive):
    name = volume()
    made = mount()
    tree.write(made.restore(name, ".x.tar.Ab12Cd"), archive.read_bytes()[:5000])
    with pytest.raises(OSError) as failure:
        os.rename(made.restore(name, ".x.tar.Ab12Cd"), made.restore(name, "x.tar"))
    assert failure.value.errno in (errno.EINVAL, errno.EILSEQ)
    assert os.listdir(engine.mountpoint(name)) == []


@pytest.mark.parametrize("name", ["x.txt", "x", "x.tar.lz4", "x.zip", "tar", "x.tar.gz.txt"])
def test_other_names_are_refused(mount, engine, volume, archive, name):
    target = volume()
    made = mount()
    with pytest.raises(OSError) as failure:
        open(made.restore(target, name), "wb")
    assert failure.value.errno == errno.EINVAL
    assert os.listdir(made.restore(target)) == []
    assert name in made.log()


def test_nothing_else_happens_in_restore(mount, engine, volume):
    name = volume()
    made = mount()
    for call in (lambda: os.mkdir(made.restore(name, "d.tar")),
                 lambda: os.symlink("/etc/passwd", made.restore(name, "l.tar")),
                 lambda: os.mkfifo(made.restore(name, "f.tar")),
                 lambda: os.mknod(made.restore(name, "n.tar"), 0o60600, os.makedev(8, 0))):
        with pytest.raises(OSError) as failure:
            call()
        assert failure.value.errno not in (errno.EIO, errno.ENOSYS)
    assert os.listdir(made.restore(name)) == []


def test_errors_come_from_close_and_fsync(mount, engine, volume, archive):
    name = volume()
    made = mount()
    data = archive.read_bytes()[:4000]
    fd = os.open(made.restore(name, "x.tar"), os.O_WRONLY | os.O_CREAT)
    assert os.write(fd, data) == len(data)
    with pytest.raises(OSError) as failure:
        os.close(fd)
    assert failure.value.errno in (errno.EINVAL, errno.EILSEQ)
    fd = os.open(made.restore(name, "y.tar"), os.O_WRONLY | os.O_CREAT)
    os.write(fd, data)
    with pytest.raises(OSError) as failure:
        os.fsync(fd)
    assert failure.value.errno in (errno.EINVAL, errno.EILSEQ)
    with pytest.raises(OSError):
        os.close(fd)


@pytest.mark.parametrize("tool", ["cp", "mv", "cat", "dd", "tee", "rsync", "gio", "install",
                                  "busybox cp", "shutil", "small writes"])
def test_every_tool_reports_a_refusal(mount, engine, volume, archive, scratch, tool):
    name = volume()
    made = mount()
    tree.write(scratch / "bad.tar", archive.read_bytes()[:100_000])
    with pytest.raises((OSError, subprocess.CalledProcessError)):
        TOOLS[tool](scratch / "bad.tar", made.restore(name, "bad.tar"))
    assert os.listdir(engine.mountpoint(name)) == []


# In use
def test_in_use_is_busy(mount, engine, volume, archive):
    name = volume()
    container = engine.start(name, "--name", f"{name}-writer")
    made = mount()
    before = tree.describe(engine.mountpoint(name), exact=True)
    done = made.run("cp", archive, made.restore(name, "x.tar"))
    assert done.returncode != 0 and "busy" in done.stderr
    tree.assert_same(before, tree.describe(engine.mountpoint(name), exact=True))
    assert f"{name}-writer" in made.log()
    assert f"{name}-writer" in made.restore(name, "x.tar").read_text()
    assert engine.api("GET", f"/containers/{container}/json")[1]["State"]["Running"]
    engine.remove_container(container)
    run("cp", archive, made.restore(name, "x.tar"))


def test_a_paused_user_is_a_user(mount, engine, volume, archive):
    name = volume()
    engine.docker("pause", engine.start(name))
    made = mount()
    done = made.run("cp", archive, made.restore(name, "x.tar"))
    assert done.returncode != 0 and "busy" in done.stderr


def test_readers_and_stopped_users_do_not_matter(mount, engine, volume, source, archive):
    name = volume()
    engine.start(name, mode="ro")
    engine.docker("stop", "-t", "0", engine.start(name))
    made = mount()
    run("cp", archive, made.restore(name))
    tree.assert_same(source, engine.mountpoint(name))
    assert engine.run(name, "cat conf/app.conf") == "port = 8080"


def test_many_volumes_at_once(mount, engine, volume, source, archive):
    names = [volume() for _ in range(10)]
    made = mount()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda name: run("cp", archive, made.restore(name)), names))
    for name in names:
        tree.assert_same(source, engine.mountpoint(name))
    engine.wait_no_helpers()


def test_one_volume_many_times_at_once(mount, engine, volume, scratch):
    """Restores of one volume come one after the other, or say that they can't."""
    name = volume()
    made = mount()
    archives = []
    for number in range(6):
        source = scratch / f"s{number}"
        source.mkdir()
        for file in range(50):
            tree.write(source / f"f{file}", str(number).encode())
        archives.append(tree.pack(source, scratch / f"{number}.tar"))
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda archive: made.run("cp", archive, made.restore(name)), archives))
    assert any(one.returncode == 0 for one in done)
    assert all(one.returncode == 0 or "busy" in one.stderr for one in done)
    values = {path.read_bytes() for path in engine.mountpoint(name).iterdir()}
    assert len(values) == 1, "two restores ran into each other"


def test_written_to_while_it_is_restored(mount, proxy, engine, volume, source, archive):
    """What is being worked on is not changed, and the log tells why."""
    name = volume()
    made = mount(proxy)
    target = made.restore(name, "x.tar")
    stall = proxy.on("PUT */archive", Stall())
    with ThreadPoolExecutor(1) as pool:
        copy = pool.submit(run, "cp", archive, target)
        assert stall.reached.wait(30)
        fd = os.open(target, os.O_WRONLY)
        for attempt in (lambda: open(target, "wb"), lambda: os.truncate(target, 1),
                        lambda: os.write(fd, b"x")):
            with pytest.raises(OSError) as refused:
                attempt()
            assert refused.value.errno == errno.EBUSY
        stall.release()
        copy.result()
        os.close(fd)
    assert f"{name}/restore/x.tar: refused: " in made.log()
    tree.assert_same(source, engine.mountpoint(name))


def test_from_one_volume_into_another_inside_the_mount(mount, engine, volume):
    one, other = volume(), volume()
    tree.simple(engine.mountpoint(one))
    made = mount()
    run("cp", made.now(one), made.restore(other))
    tree.assert_same(engine.mountpoint(one), engine.mountpoint(other))


def test_a_restored_volume_serves(mount, engine, volume, archive):
    """The names in the engine's view and in the next now.tar are right away the new ones."""
    name = volume()
    made = mount()
    before = os.stat(made.now(name)).st_size
    run("cp", archive, made.restore(name))
    assert engine.run(name, "cat conf/app.conf") == "port = 8080"
    wait_for(lambda: os.stat(made.now(name)).st_size > before, "now.tar follows", 3)
