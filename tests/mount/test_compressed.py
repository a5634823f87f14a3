"""now.tar.gz and now.tar.zst: the moment, compressed."""
import gzip
import hashlib
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import kept, tree
from harness.command import run
from harness.proxy import Stall
from harness.wait import wait_for

UNPACK = {"gz": ["gzip", "-dc"], "zst": ["zstd", "-q", "-dc"]}


@pytest.fixture
def filled(engine, volume):
    name = volume()
    tree.everything(engine.mountpoint(name))
    tree.whole_seconds(engine.mountpoint(name))
    return name


def now(made, name, kind):
    return made.volume(name) / "snapshots" / f"now.tar.{kind}"


def test_they_are_not_listed(mount, filled):
    made = mount()
    assert os.listdir(made.now(filled).parent) == ["now.tar"]
    for kind in UNPACK:
        assert os.stat(now(made, filled, kind)).st_size > 0
    assert os.listdir(made.now(filled).parent) == ["now.tar"]


@pytest.mark.parametrize("kind", UNPACK)
def test_it_is_now_tar_compressed(mount, engine, filled, scratch, kind):
    made = mount()
    path = now(made, filled, kind)
    by_name = os.stat(path).st_size
    with open(path, "rb") as file:
        by_handle = os.fstat(file.fileno()).st_size
        data = file.read()
        assert file.read() == b"" and file.seek(0, os.SEEK_END) == by_handle
    assert by_name == by_handle == len(data)
    assert int(run("wc", "-c", path).stdout.split()[0]) == len(data)
    (scratch / "x").write_bytes(data)
    assert run(*UNPACK[kind], scratch / "x").stdout == made.now(filled).read_bytes()
    run(UNPACK[kind][0], "-q", "-t", path)
    assert len(data) < made.now(filled).stat().st_size
    assert run("tar", "-taf", path).stdout == run("tar", "-tf", made.now(filled)).stdout
    assert tree.tar_differences(path, engine.mountpoint(filled)) == []
    assert os.stat(path).st_mtime == os.stat(made.now(filled)).st_mtime
    if kind == "gz":
        assert hashlib.sha256(gzip.decompress(data)).digest() == \
            hashlib.sha256(made.now(filled).read_bytes()).digest()


TOOLS = {
    "cp": ["cp"], "cp -a": ["cp", "-a"], "rsync": ["rsync", "-t"], "gio": ["gio", "copy"],
    "busybox": ["busybox", "cp"], "install": ["install", "-m", "600"],
    "shutil": ["python3", "-c", "import shutil, sys; shutil.copy2(*sys.argv[1:])"],
    "dd": ["sh", "-c", 'dd if="$0" of="$1" bs=777k status=none'],
    "cat": ["sh", "-c", 'cat "$0" >"$1"'],
}


@pytest.mark.parametrize("kind", UNPACK)
def test_every_tool_copies_it(mount, filled, scratch, kind):
    made = mount()
    first = now(made, filled, kind).read_bytes()
    for tool, command in TOOLS.items():
        target = scratch / f"copy.tar.{kind}"
        run(*command, now(made, filled, kind), target)
        assert target.read_bytes() == first, tool
        target.unlink()
    run("rsync", "-t", now(made, filled, kind), scratch / "x")
    done = run("rsync", "-t", "--stats", now(made, filled, kind), scratch / "x")
    assert b"Number of regular files transferred: 0" in done.stdout


def test_reading_anywhere(mount, filled):
    made = mount()
    path = now(made, filled, "zst")
    data = path.read_bytes()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    for offset in range(len(data) - 1, 0, -len(data) // 50):
        buffer = bytearray(70_000)
        count = os.preadv(fd, [buffer], offset)
        assert buffer[:count] == data[offset:offset + 70_000]
    os.close(fd)


def test_nothing_else_is_done_to_it(mount, filled):
    made = mount()
    for kind in UNPACK:
        path = now(made, filled, kind)
        assert kept.refusal(open, path, "wb") == "EROFS"
        assert kept.refusal(os.unlink, path) in ("EPERM", "EROFS")
        assert kept.refusal(os.rename, path, path.with_name("x.tar.zst")) in ("EPERM", "EROFS")


@pytest.fixture
def large(engine, volume):
    name = volume()
    line = "".join(f"{n * n:x} " for n in range(100_000)).encode()
    with open(engine.mountpoint(name) / "much", "wb") as file:
        for number in range(120):
            file.write(b"%d" % number + line)
    return name


@pytest.mark.parametrize("kind", UNPACK)
def test_several_readers_share_one_making(mount, large, scratch, kind):
    made = mount()
    targets = [scratch / f"x{n}" for n in range(3)]
    processes = [subprocess.Popen(["cp", now(made, large, kind), target]) for target in targets]
    most = 0
    def watch():
        nonlocal most
        most = max(most, sum(job[0] == "compress" for job in kept.jobs(made)))
        return all(process.poll() is not None for process in processes)
    wait_for(watch, "they are done", 60)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert most == 1
    assert len({target.read_bytes() for target in targets}) == 1
    run(UNPACK[kind][0], "-q", "-t", targets[0].rename(scratch / f"x.tar.{kind}"))


@pytest.mark.parametrize("kind", UNPACK)
def test_it_ends_when_nobody_waits_any_more(mount, large, scratch, kind):
    """Not with the first of two that goes."""
    made = mount()
    processes = [subprocess.Popen(["cp", now(made, large, kind), scratch / f"x{n}"])
                 for n in range(2)]
    def compressing():
        return [job for job in kept.jobs(made) if job[0] == "compress" and int(job[2]) > 0]
    wait_for(lambda: compressing() and all(
        "fuse" in Path(f"/proc/{process.pid}/stack").read_text() for process in processes),
             "it is being made, and both wait for it")
    processes[0].send_signal(signal.SIGINT)
    assert processes[0].wait(10) == -signal.SIGINT
    assert compressing(), "the other one waits for it"
    processes[1].send_signal(signal.SIGKILL)
    processes[1].wait(10)
    wait_for(lambda: not kept.jobs(made), "nothing is made any more")
    wait_for(lambda: not made.spooled(), "nothing is left of it")
    run("cp", now(made, large, kind), scratch / "x")
    run(*UNPACK[kind], scratch / "x", stdout=subprocess.DEVNULL)


def test_a_change_is_in_the_next_one(mount, engine, filled, scratch):
    made = mount()
    for number in range(3):
        (engine.mountpoint(filled) / "number").write_text(f"{number}")
        for kind in UNPACK:
            run("cp", now(made, filled, kind), scratch / "x")
            done = run("tar", f"--{'gzip' if kind == 'gz' else 'zstd'}", "-xOf", scratch / "x",
                       "./number")
            assert done.stdout == b"%d" % number


def test_restored_it_is_the_same(mount, engine, filled, volume, scratch):
    made = mount()
    for kind in UNPACK:
        other = volume()
        run("cp", now(made, filled, kind), scratch)
        run("cp", scratch / f"now.tar.{kind}", made.restore(other))
        tree.assert_same(engine.mountpoint(filled), engine.mountpoint(other))


@pytest.mark.access("api")
def test_nothing_is_left_where_the_engine_hangs(mount, proxy, large, scratch):
    made = mount(proxy)
    stall = proxy.on("GET */archive*", Stall(after=1_000_000))
    process = subprocess.Popen(["cp", now(made, large, "gz"), scratch / "x"])
    assert stall.reached.wait(30)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT
    stall.release()
    wait_for(lambda: not made.spooled() and not kept.jobs(made), "nothing is left of it")


def test_many_volumes_at_once(mount, engine, volume, scratch):
    names = [volume() for _ in range(6)]
    for name in names:
        tree.simple(engine.mountpoint(name))
        (engine.mountpoint(name) / "name").write_text(name)
    made = mount()
    def copy(name):
        out = scratch / name
        out.mkdir()
        shutil.copy(now(made, name, "gz"), out / "x.tar.gz")
        run("tar", "-C", out, "-xzf", out / "x.tar.gz")
        return (out / "name").read_text()
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(copy, names)) == names
