"""Staying up: engines that hang, stop and come back; interrupts; full disks; long use."""
import errno
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import tree
from harness.proxy import Stall
from harness.wait import wait_for


def start(*command, **options):
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([str(word) for word in command], **options)


def end(process, seconds=30):
    """(exit status, stderr) of a process that was started."""
    _, error = process.communicate(timeout=seconds)
    return process.returncode, error


def answers_within_a_second(made, *names):
    """ls answers promptly, whatever else waits."""
    begin = time.monotonic()
    done = made.run("ls", made.path, timeout=10)
    assert done.returncode == 0 and time.monotonic() - begin < 1, "ls waits"
    assert set(names) <= set(done.stdout.split())


@pytest.fixture
def filled(private_engine):
    """A volume of the private engine with a few files in it."""
    name = private_engine.volume()
    tree.simple(private_engine.mountpoint(name))
    tree.whole_seconds(private_engine.mountpoint(name))
    return name


@pytest.mark.access("api")
def test_an_engine_that_hangs(mount, private_engine, filled, scratch):
    made = mount(private_engine)
    private_engine.hang()
    try:
        answers_within_a_second(made, filled)
        begin = time.monotonic()
        made.run("ls", made.volume(filled), made.volume(filled) / "snapshots", timeout=10)
        assert time.monotonic() - begin < 1
        copy = start("cp", made.now(filled), scratch / "x.tar")
        answers_within_a_second(made, filled)
        assert copy.poll() is None, "it waits"
    finally:
        private_engine.resume()
    assert end(copy) == (0, "")
    assert tree.tar_differences(scratch / "x.tar", private_engine.mountpoint(filled)) == []


@pytest.mark.access("agent")
def test_an_engine_that_hangs_at_the_end(mount, private_engine, filled):
    """It is not waited for long; the next mount removes what was left."""
    made = mount(private_engine)
    os.listdir(made.data(filled))
    assert len(private_engine.helpers()) == 1
    private_engine.hang()
    try:
        begin = time.monotonic()
        made.umount()
        assert time.monotonic() - begin < 15
    finally:
        private_engine.resume()
    mount(private_engine)
    private_engine.wait_nothing_left()


@pytest.mark.access("api")
def test_an_engine_that_stops(mount, private_engine, filled, archive, scratch):
    made = mount(private_engine)
    private_engine.stop()
    answers_within_a_second(made, filled)
    done = made.run("cp", made.now(filled), scratch / "x.tar")
    assert done.returncode != 0 and os.strerror(errno.EHOSTDOWN) in done.stderr
    done = made.run("cp", archive, made.restore(filled))
    assert done.returncode != 0 and os.strerror(errno.EHOSTDOWN) in done.stderr
    assert private_engine.socket in made.log()

    private_engine.restart()
    wait_for(lambda: made.run("cp", made.now(filled), scratch / "x.tar").returncode == 0,
             "copies work again", 20)
    assert tree.tar_differences(scratch / "x.tar", private_engine.mountpoint(filled)) == []
    name = private_engine.volume()
    wait_for(lambda: name in os.listdir(made.path), "events come again", 20)
    private_engine.remove_volume(name)
    wait_for(lambda: name not in os.listdir(made.path), "and go on", 2)


def test_an_engine_that_is_restarted_while_volumes_come_and_go(mount, private_engine, filled):
    gone = private_engine.volume()
    made = mount(private_engine)
    assert gone in os.listdir(made.path)
    private_engine.stop()
    private_engine.restart()
    private_engine.remove_volume(gone)
    new = private_engine.volume()
    wait_for(lambda: new in os.listdir(made.path) and gone not in os.listdir(made.path),
             "the listing is right", 20)


@pytest.mark.access("api")
def test_an_engine_that_is_killed_under_a_copy(mount, private_engine, filled, scratch):
    with open(private_engine.mountpoint(filled) / "big", "wb") as file:
        file.truncate(1 << 30)
    made = mount(private_engine)
    copy = start("cp", made.now(filled), scratch / "x.tar")
    wait_for(private_engine.helpers, "a helper is at work")
    os.kill(private_engine.pid, signal.SIGKILL)
    status, error = end(copy)
    assert status != 0 and error
    answers_within_a_second(made, filled)
    private_engine.restart()
    (private_engine.mountpoint(filled) / "big").unlink()
    wait_for(lambda: made.run("cp", made.now(filled), scratch / "x.tar").returncode == 0,
             "copies work again", 20)
    private_engine.wait_no_helpers(30)


@pytest.mark.access("api")
def test_fifty_copies_wait_and_ls_answers(mount, proxy, engine, volume, scratch):
    names = [volume() for _ in range(50)]
    for name in names:
        (engine.mountpoint(name) / "name").write_text(name)
    made = mount(proxy)
    stall = proxy.on("GET */archive", Stall())
    copies = [start("cp", made.now(name), scratch / f"{name}.tar") for name in names]
    assert stall.reached.wait(30)
    for _ in range(5):
        answers_within_a_second(made, *names)
        made.run("cat", made.volume(names[0]) / "volume.json", timeout=2)
        made.run("cat", made.path / ".dvolfs/log", timeout=2)
    new = volume()
    wait_for(lambda: new in os.listdir(made.path), "news come through", 2)
    assert all(copy.poll() is None for copy in copies)
    stall.release()
    assert [end(copy, 120) for copy in copies] == [(0, "")] * 50
    for name in names:
        assert subprocess.run(["tar", "xOf", scratch / f"{name}.tar", "./name"], check=True,
                              capture_output=True, text=True).stdout == name
    engine.wait_no_helpers(30)


def test_fifty_restores_wait_and_ls_answers(mount, proxy, engine, volume, source, archive):
    names = [volume() for _ in range(50)]
    made = mount(proxy)
    stall = proxy.on("PUT */archive", Stall())
    copies = [start("cp", archive, made.restore(name)) for name in names]
    assert stall.reached.wait(30)
    for _ in range(5):
        answers_within_a_second(made, *names)
    stall.release()
    assert [end(copy, 120) for copy in copies] == [(0, "")] * 50
    for name in names:
        tree.assert_same(source, engine.mountpoint(name))


@pytest.mark.access("api")
@pytest.mark.parametrize("where", ["GET */archive", "POST */containers/create"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ctrl_c_on_a_waiting_copy(mount, proxy, engine, volume, scratch, where, number):
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount(proxy)
    stall = proxy.on(where, Stall())
    copy = start("cp", made.now(name), scratch / "x.tar")
    assert stall.reached.wait(20)
    begin = time.monotonic()
    copy.send_signal(number)
    copy.wait(10)
    assert time.monotonic() - begin < 1 and copy.returncode != 0
    copy.stderr.close()
    engine.wait_no_helpers(5)           # though the engine's answer still waits
    proxy.clear()
    stall.release()
    assert made.run("cp", made.now(name), scratch / "x.tar").returncode == 0
    assert tree.tar_differences(scratch / "x.tar", engine.mountpoint(name)) == []


@pytest.mark.access("api")
def test_ctrl_c_in_the_middle_of_the_bytes(mount, proxy, engine, volume, scratch):
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount(proxy)
    stall = proxy.on("GET */archive", Stall(after=100_000))
    copy = start("cp", made.now(name), scratch / "x.tar")
    assert stall.reached.wait(20)
    begin = time.monotonic()
    copy.send_signal(signal.SIGINT)
    copy.wait(10)
    assert time.monotonic() - begin < 1 and copy.returncode != 0
    copy.stderr.close()
    stall.release()
    engine.wait_no_helpers(5)
    wait_for(lambda: not made.spooled(), "the spool is empty", 5)


@pytest.mark.access("api")
def test_one_of_two_waiting_readers_gives_up(mount, proxy, engine, volume, scratch):
    """The other gets its bytes all the same."""
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount(proxy)
    stall = proxy.on("GET */archive", Stall())
    copies = [start("cp", made.now(name), scratch / f"{number}.tar") for number in range(2)]
    assert stall.reached.wait(20)
    copies[0].send_signal(signal.SIGINT)
    copies[0].wait(5)
    copies[0].stderr.close()
    stall.release()
    assert end(copies[1]) == (0, "")
    assert tree.tar_differences(scratch / "1.tar", engine.mountpoint(name)) == []


def test_ctrl_c_on_a_waiting_restore(mount, proxy, engine, volume, source, archive):
    name = volume()
    made = mount(proxy)
    stall = proxy.on("POST */containers/create", Stall())
    copy = start("cp", archive, made.restore(name))
    assert stall.reached.wait(20)
    begin = time.monotonic()
    copy.send_signal(signal.SIGINT)
    copy.wait(10)
    assert time.monotonic() - begin < 1 and copy.returncode != 0
    copy.stderr.close()
    proxy.clear()
    stall.release()
    engine.wait_no_helpers(5)
    assert os.listdir(engine.mountpoint(name)) == []
    assert made.run("cp", archive, made.restore(name)).returncode == 0
    tree.assert_same(source, engine.mountpoint(name))


@pytest.mark.access("api")
def test_umount_while_copies_wait(mount, proxy, engine, volume):
    """A lazy umount with work under way ends the daemon and its helpers all the same."""
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount(proxy)
    proxy.on("GET */archive", Stall())
    copy = start("cat", made.now(name))
    wait_for(engine.helpers, "a helper is at work")
    subprocess.run(["umount", "-l", made.path], check=True)
    copy.kill()
    end(copy)
    made.killed = True
    wait_for(lambda: not made.alive(), "the daemon ended", 20)
    engine.wait_no_helpers()


@pytest.mark.access("api")
def test_kill_9_and_a_new_mount(mount, proxy, engine, volume, scratch):
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount(proxy)
    stall = proxy.on("GET */archive", Stall())
    copies = [start("cat", made.now(name)) for _ in range(3)]
    assert stall.reached.wait(20)
    made.kill(signal.SIGKILL)
    assert all(end(copy)[0] != 0 for copy in copies)
    proxy.clear()
    again = mount(proxy, f"store={made.home}/store", path=made.path)
    stall.release()
    assert again.run("cp", again.now(name), scratch / "x.tar").returncode == 0
    assert tree.tar_differences(scratch / "x.tar", engine.mountpoint(name)) == []
    engine.wait_no_helpers()
    assert not list((made.home / "store" / ".spool").iterdir()), "the dead one left something"


# Full disks
@pytest.fixture
def small_spool(scratch):
    directory = scratch / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


def used(directory):
    status = os.statvfs(directory)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.mark.access("api")
def test_a_full_spool_on_backup(mount, engine, volume, small_spool, scratch):
    big, little = volume(), volume()
    tree.write(engine.mountpoint(big) / "big", os.urandom(6 << 20))
    tree.simple(engine.mountpoint(little))
    made = mount(None, f"spool={small_spool}")
    free = used(small_spool)
    for tool in (["cp"], ["rsync"], ["gio", "copy"]):
        done = made.run(*tool, made.now(big), scratch / "x.tar")
        assert done.returncode != 0
        assert "No space left on device" in done.stderr, done.stderr
    assert big in made.log()
    wait_for(lambda: used(small_spool) <= free, "the spool is as empty as before")
    assert made.run("cp", made.now(little), scratch / "y.tar").returncode == 0
    engine.wait_no_helpers()


def test_a_full_spool_on_restore(mount, engine, volume, small_spool, scratch):
    name = volume()
    tree.simple(engine.mountpoint(name))
    before = tree.describe(engine.mountpoint(name), exact=True)
    (scratch / "s").mkdir()
    tree.write(scratch / "s/big", os.urandom(6 << 20))
    archive = tree.pack(scratch / "s", scratch / "big.tar")
    made = mount(None, f"spool={small_spool}")
    free = used(small_spool)
    for tool in (["cp"], ["rsync"], ["gio", "copy"]):
        done = made.run(*tool, archive, made.restore(name, "big.tar"))
        assert done.returncode != 0
        assert "No space left on device" in done.stderr, done.stderr
    tree.assert_same(before, tree.describe(engine.mountpoint(name), exact=True))
    wait_for(lambda: used(small_spool) <= free, "the spool is as empty as before")


def test_no_room_in_the_volume(mount, engine, volume, scratch):
    """The engine's disk is too small for what the archive holds: nothing is changed."""
    name = volume()
    top = engine.mountpoint(name)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", top], check=True)
    try:
        tree.simple(top)
        before = tree.describe(top, exact=True)
        (scratch / "s").mkdir()
        for number in range(10):
            tree.write(scratch / f"s/{number}", os.urandom(1 << 20))
        archive = tree.pack(scratch / "s", scratch / "big.tar")
        made = mount()
        done = made.run("cp", archive, made.restore(name))
        assert done.returncode != 0 and "No space left on device" in done.stderr
        tree.assert_same(before, tree.describe(top, exact=True))
        assert name in made.log()
        assert made.restore(name, "big.tar").read_text()
    finally:
        subprocess.run(["umount", "-l", top], check=True)


# Long use.  Idle connections and threads come and go; a leak would be one a copy.
IDLE_DESCRIPTORS, IDLE_THREADS = 20, 24   # the session's own, and workers that end by and by


def measure(made, engine):
    """The daemon's descriptors, threads and memory, once nothing is under way."""
    engine.wait_no_helpers(30)
    wait_for(lambda: not made.spooled(), "the spool is empty")
    return made.descriptors(), made.threads(), made.status_kb("VmRSS")


@pytest.mark.parametrize("access, copies", [("local", 1000), ("api", 250), ("agent", 1000)])
def test_many_copies_leave_nothing_behind(mount, engine, volume, access, copies):
    names = [volume() for _ in range(8)]
    for name in names:
        (engine.mountpoint(name) / "file").write_text(name)
    made = mount(None, f"access={access}")
    def copy(number):
        name = names[number % 8]
        return name.encode() in made.now(name).read_bytes()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(copy, range(100)))
        before = measure(made, engine)
        assert all(pool.map(copy, range(200 if made.has_sanitizer() else copies)))
        # A moment is kept for a second, for a lookup that has not opened it yet.
        wait_for(lambda: made.descriptors() <= before[0] + IDLE_DESCRIPTORS, "moments go", 10)
        after = measure(made, engine)
    assert after[0] <= before[0] + IDLE_DESCRIPTORS, "file descriptors grew"
    assert after[1] <= before[1] + IDLE_THREADS, "threads grew"
    # ASan keeps what was freed for a while, on purpose.
    allowed = 8 << 10 if not made.has_sanitizer() else 400 << 10
    assert after[2] <= before[2] + allowed, "memory grew"


def test_many_restores_leave_nothing_behind(mount, engine, volume, archive):
    names = [volume() for _ in range(4)]
    archive = archive.read_bytes()
    made = mount()
    def restore(number):
        path = made.restore(names[number % 4], f"{number}.tar")
        path.write_bytes(archive)
        path.unlink()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(restore, range(20)))
        before = measure(made, engine)
        list(pool.map(restore, range(40)))
        after = measure(made, engine)
    assert after[0] <= before[0] + IDLE_DESCRIPTORS, "file descriptors grew"
    assert after[1] <= before[1] + IDLE_THREADS, "threads grew"


@pytest.mark.parametrize("access", ["local", "api", "agent"])
def test_backups_and_restores_at_the_same_time(mount, engine, volume, source, archive, scratch,
                                               access):
    """Readers get a whole old or new state as far as the archive goes; restores succeed."""
    names = [volume() for _ in range(3)]
    for name in names:
        tree.simple(engine.mountpoint(name))
    made = mount(None, f"access={access}")
    def read(number):
        copy = scratch / f"{number}.tar"
        done = made.run("cp", made.now(names[number % 3]), copy)
        return done.returncode == 0 and subprocess.run(
            ["tar", "tf", copy], check=False, capture_output=True).returncode == 0
    def write(number):
        done = made.run("cp", archive, made.restore(names[number % 3], f"{number}.tar"))
        return done.returncode == 0 or "busy" in done.stderr
    with ThreadPoolExecutor(6) as pool:
        reads, writes = pool.map(read, range(30)), pool.map(write, range(30))
        assert sum(reads) >= 20 and all(writes)
    for name in names:
        tree.assert_same(source, engine.mountpoint(name))
