"""Who may see what, and that nothing a volume holds leads out of it."""
import ctypes
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest
from harness import tree
from harness.command import run
from harness.proxy import Stall

pytestmark = pytest.mark.access("local", "agent", "agent-stream")


def as_user(uid, *command):
    return subprocess.run(["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups",
                           "--inh-caps=-all", "--", *map(str, command)], check=False,
                          capture_output=True, text=True)


CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


# The daemon and its helper
@pytest.mark.access("agent")
def test_nobody_else_can_be_the_agent(mount, proxy, engine, volume):
    """The socket at which the daemon waits for it is out of reach for all others."""
    name = volume()
    made = mount(proxy)
    stall = proxy.on("POST */start", Stall())
    reader = subprocess.Popen(["ls", made.data(name)], stdout=subprocess.DEVNULL)
    assert stall.reached.wait(20)
    facts = engine.inspect(*engine.helpers())
    bound, = [each["Source"] for each in facts["Mounts"] if each["Type"] == "bind"]
    done = as_user(65533, sys.executable, "-c", CONNECT, bound)
    assert "PermissionError" in done.stderr, done.stderr
    stall.release()
    assert reader.wait(30) == 0


@pytest.mark.access("agent", "agent-stream")
def test_nobody_else_gets_at_the_helper(mount, engine, volume):
    name = volume()
    tree.simple(engine.mountpoint(name))
    engine.mountpoint(name).chmod(0o755)
    made = mount()
    with open(made.data(name) / "data.bin", "rb") as file:
        file.read(10)
        pid = engine.helper()["State"]["Pid"]
        for path in (f"/proc/{pid}/fd", f"/proc/{pid}/root/", f"/proc/{pid}/cwd/",
                     f"/proc/{made.pid}/fd", f"/proc/{made.pid}/root/"):
            done = as_user(65533, "ls", path)
            assert done.returncode != 0 and "Permission denied" in done.stderr, path
        opened = as_user(65533, "sh", "-c", f"exec 3<>/proc/{made.pid}/mem")
        assert opened.returncode != 0


def test_a_users_mount_is_his_alone(mount, namespace, engine, volume):
    """Neither another user nor root gets in."""
    name = volume()
    tree.simple(engine.mountpoint(name))
    made = mount(user=mount.user(), namespace=namespace)
    assert made.run("cat", made.now(name), text=False, errors=None).returncode == 0
    for uid in (65533, 0):
        for path in (made.path, made.data(name) / "conf", made.now(name),
                     made.volume(name) / "volume.json", made.path / ".dvolfs/log"):
            done = namespace.run("setpriv", "--reuid", str(uid), "--clear-groups", "--", "cat",
                                 path, check=False)
            assert done.returncode != 0 and "Permission denied" in done.stderr, (uid, path)


# Others
@pytest.mark.parametrize("below", ["snapshots", "snapshots/now.tar", "snapshots/now.tar.gz",
                                   "restore", "restore/x.tar", "browse", "browse/x", "volume.json"])
def test_with_allow_other_all_but_data_is_private(mount, engine, volume, below):
    name = volume()
    tree.simple(engine.mountpoint(name))
    engine.mountpoint(name).chmod(0o755)
    made = mount(None, "allow_other")
    assert as_user(65533, "ls", made.volume(name)).returncode == 0
    for command in ("ls", "cat", "touch"):
        done = as_user(65533, command, made.volume(name) / below)
        text = done.stdout + done.stderr
        assert "Permission denied" in text or "No such file" in text or (
            command == "ls" and below == "volume.json"), text
    assert as_user(65533, "cat", made.volume(name) / below).stdout == ""


# Special files in the place of plain ones
class Waiting:
    """Somebody who waits to write to a fifo, until someone opens it to read."""

    def __init__(self, path):
        self.fifo, self.opened = os.open(path, os.O_PATH), threading.Event()
        threading.Thread(target=self.wait, daemon=True).start()

    def open(self, flags):
        os.close(os.open(f"/proc/self/fd/{self.fifo}", flags))

    def wait(self):
        self.open(os.O_WRONLY)
        self.opened.set()

    def end(self):
        while not self.opened.wait(0.1):
            self.open(os.O_RDONLY | os.O_NONBLOCK)
        os.close(self.fifo)


@pytest.mark.parametrize("what", ["data", "now.tar"])
def test_what_is_no_plain_file_is_never_opened(mount, engine, volume, what):
    """A fifo in a file's place since it was looked at (a device would do something).

    Whoever opens it lets its writer go on.
    """
    name = volume()
    top = engine.mountpoint(name)
    for file in ("a", "b", "c"):
        tree.write(top / file, b"x" * 100_000)
    made = mount(None, "cache=60")
    file = os.open(made.now(name) if what == "now.tar" else made.data(name) / "b", os.O_PATH)
    size = os.stat(f"/proc/self/fd/{file}").st_size
    os.mkfifo(top / "new")
    writer = Waiting(top / "new")
    (top / "new").rename(top / "b")
    try:
        done = subprocess.run(["cat", f"/proc/self/fd/{file}"], pass_fds=[file], check=False,
                              capture_output=True, timeout=30)
        if what == "now.tar":
            assert len(done.stdout) == size and b"x" * 100_000 in done.stdout
        else:
            assert b"Stale" in done.stderr and not done.stdout
        run("find", made.data(name), "-printf", "%s %y\n")
        made.now(name).read_bytes()
        assert not writer.opened.is_set()
    finally:
        writer.end()
        os.close(file)


def swap_and_read(mount, engine, name, reads_archives):
    """Read b, in the place of which the volume's f comes and goes."""
    made = mount(None, "cache=0")
    engine.start(name, script="while :; do mv b p; mv f b; mv b f; mv p b; done")
    seen, begin = 0, time.monotonic()
    while time.monotonic() < begin + (2 if seen else 40):
        try:
            with open(os.open(made.data(name) / "b", os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                seen += file.read() == b"plain"
        except OSError:
            continue
        if reads_archives:
            made.now(name).read_bytes()
    for container in list(engine.containers):
        engine.remove_container(container)
    assert seen


@pytest.mark.parametrize("what", ["data", "now.tar"])
def test_a_fifo_that_comes_and_goes(mount, engine, volume, in_place, what):
    """Whatever is won in the race is not the fifo."""
    name = volume()
    top = engine.mountpoint(name)
    tree.write(top / "b", b"plain")
    os.mkfifo(top / "f")
    writer = Waiting(top / "f")
    swap_and_read(mount, engine, name, reads_archives=what == "now.tar")
    # Who reads ahead in place looks first, but what comes within microseconds after that is
    # opened: then this fifo's writer has been let go on, by a container's own doing.
    assert not writer.opened.is_set() or (in_place and what == "now.tar")
    writer.end()


def watch_openings(path):
    """A descriptor from which can be read that path, whatever it is, was opened: inotify(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    in_open = 0x20
    assert fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(path), in_open) >= 0
    return fd


def test_a_device_that_comes_and_goes(mount, engine, volume):
    """What comes with being opened is not undone by closing it: it is not, not even in a race."""
    name = volume()
    top = engine.mountpoint(name)
    tree.write(top / "b", b"plain")
    os.mknod(top / "f", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    watch = watch_openings(top / "f")
    device = os.open(top / "f", os.O_PATH)  # it may have another name when the container ends
    swap_and_read(mount, engine, name, reads_archives=True)
    with pytest.raises(BlockingIOError):
        os.read(watch, 4096)
    open(f"/proc/self/fd/{device}", "rb").close()
    assert os.read(watch, 4096), "that it would be noticed"
    os.close(device)
    os.close(watch)


def test_a_socket_is_never_connected_to(mount, engine, volume):
    name = volume()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(engine.mountpoint(name) / "s"))
    server.listen(1)
    server.setblocking(False)
    made = mount()
    run("find", made.data(name), "-ls")
    made.now(name).read_bytes()
    with pytest.raises(OSError):
        os.open(made.data(name) / "s", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        server.accept()
    server.close()
