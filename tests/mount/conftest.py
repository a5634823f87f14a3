"""Fixtures of the mount tests.

They need root, a Docker engine (DVOLFS_TEST_ENGINE="unix://... unix://...": one of
these, which is its own while it runs; else one is started), and the program, DVOLFS_BIN
(else the one in build/).  DVOLFS_TEST_ACCESS is the way to the contents that mounts
take where a test does not say (else auto).

An agent hands its directory over to who may read all files. Not to the mounts of the way
"agent", which lack that right and have to ask, as an ordinary user's; "agent-here" is the
same with it.
"""
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from harness import tree
from harness.daemon import Mount, Namespace, User
from harness.engine import Engine, PrivateEngine
from harness.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("DVOLFS_BIN", ROOT / "build/fs/mount.dvolfs"))
WANTED = os.environ.get("DVOLFS_TEST_ACCESS", "auto")
ACCESS = WANTED.removesuffix("-here")
HAS_TO_ASK = ["setpriv", "--bounding-set=-dac_read_search", "--"]

serial = itertools.count(1)


def pytest_configure(config):
    # Ended from outside, what was started is ended all the same.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "access(*ways): the ways to the contents it is about")


def wanted_access(item):
    """The way that a test's mounts take, unless it says at each."""
    marker = item.get_closest_marker("access")
    return ACCESS if not marker or ACCESS in marker.args else marker.args[0]


def pytest_collection_modifyitems(config, items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="mount tests need root"))
    if ACCESS != "auto":        # what is about some ways is not run under another
        others = [item for item in items if wanted_access(item) != ACCESS]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if wanted_access(item) == ACCESS]


def remove(directory):
    """Remove a tree whatever its names are like: rm copes with paths that python can't."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        if line.split(" ")[1].startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", line.split(" ")[1]], check=False)
    subprocess.run(["rm", "-rf", "--one-file-system", directory], check=True)


@pytest.fixture(scope="session")
def session_scratch():
    directory = Path(tempfile.mkdtemp(prefix="dvt-"))
    directory.chmod(0o755)      # an ordinary user mounts below it too
    yield directory
    remove(directory)


@pytest.fixture
def scratch(session_scratch):
    """An empty directory for one test, short enough for sockets in it."""
    directory = session_scratch / str(next(serial))
    directory.mkdir()
    yield directory
    remove(directory)


reserved = []


def reserve(hosts):
    """One of the engines that nobody else tests with, for the life of this process."""
    while True:
        for host in hosts:
            lock = open(host.removeprefix("unix://") + ".reserved", "w", encoding="ascii")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            reserved.append(lock)       # until the process ends
            return host
        time.sleep(0.2)


@pytest.fixture(scope="session")
def shared_engine(session_scratch):
    offered = os.environ.get("DVOLFS_TEST_ENGINE", "").split()
    if offered:
        engine = Engine(reserve(offered), session_scratch)
    else:
        engine = PrivateEngine(session_scratch / "engine", session_scratch)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine):
    """The engine that all tests share; what a test makes in it goes at its end."""
    yield shared_engine
    shared_engine.clean()


@pytest.fixture
def private_engine(scratch):
    """An engine of the test's own, to hang, stop, kill or starve."""
    made = PrivateEngine(scratch / "engine", scratch)
    yield made
    made.close()


@pytest.fixture
def way(request):
    """The way to the contents that the test's mounts take."""
    return wanted_access(request.node)


@pytest.fixture
def in_place(way):
    """Whether the mounts read the volume's directory themselves."""
    return way in ("auto", "local") or WANTED == "agent-here"


@pytest.fixture
def source(scratch):
    """A directory, as a volume might hold it."""
    top = scratch / "source"
    top.mkdir()
    tree.simple(top)
    return top


@pytest.fixture
def archive(source, scratch):
    """x.tar, an archive of `source`."""
    return tree.pack(source, scratch / "x.tar")


@pytest.fixture
def volume(engine):
    """volume(**options) creates a volume in the shared engine; its name."""
    return engine.volume


@pytest.fixture
def proxy(engine, scratch):
    """A proxy in front of the shared engine."""
    made = Proxy(engine.socket, scratch / "proxy.sock")
    yield made
    made.close()


@pytest.fixture
def namespace(scratch):
    made = Namespace(scratch)
    yield made
    made.close()


@pytest.fixture(scope="session")
def binary(session_scratch):
    """The program where every user may run it."""
    assert BINARY.exists(), f"{BINARY} is not built"
    copy = session_scratch / "bin" / "mount.dvolfs"
    copy.parent.mkdir()
    shutil.copy2(BINARY, copy)
    return copy


class Mounter:
    """mount(where, options...) mounts and returns a Mount; all end with the test."""

    def __init__(self, binary, scratch, engine, access):
        self.binary, self.scratch, self.engine = binary, scratch, engine
        self.access = access
        self.made = []

    def user(self):
        return User(self.engine.socket)

    def prepare(self, where=None, *options, path=None, user=None, namespace=None, flags=(),
                command=None, environment=(), may_read_all=WANTED == "agent-here"):
        """A Mount that is not started yet.

        `where`: an Engine, a Proxy or a SPEC ("" for none), by default the shared
        engine; `user`: who mounts, if not root; that takes a namespace, where users may;
        `may_read_all`: agents hand their directories over.
        """
        number = next(serial)
        home = self.scratch / f"home{number}"
        (home / "run").mkdir(parents=True, mode=0o700)
        if path is None:
            path = self.scratch / f"mnt{number}"
            path.mkdir()
        if user:
            for directory in (home, home / "run", path):
                os.chown(directory, user.uid, user.gid)
            namespace.open_fuse()
        spec = getattr(where or self.engine if where != "" else "", "host", where)
        if not user and not any(option.startswith("store=") for option in options):
            options = (*options, f"store={home}/store")
        if not user and not any(option.startswith("access=") for option in options):
            options = (*options, f"access={self.access}")
        command = command or [self.binary, *([spec] if spec else []), path, *flags,
                              *(["-o", ",".join(options)] if options else [])]
        if not user and "access=agent" in options and not may_read_all:
            command = [*HAS_TO_ASK, *command]
        made = Mount(self.binary, path, command, home, namespace, user, environment)
        made.home = home
        self.made.append(made)
        return made

    def __call__(self, *arguments, **keywords):
        return self.prepare(*arguments, **keywords).start()

    def refused(self, *arguments, **keywords):
        """Try to mount what must not be; its one line on stderr."""
        made = self.prepare(*arguments, **keywords)
        before = made.mounted()
        done = made.attempt()
        assert done.returncode != 0, f"{made.command}: exit 0"
        assert made.mounted() == before
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert before or made.find() is None, "a daemon stays behind"
        return done.stderr.strip()


@pytest.fixture
def mount(request, binary, scratch, engine, way):
    for name in ("proxy", "private_engine", "namespace"):
        if name in request.fixturenames:
            request.getfixturevalue(name)       # set up before, so that it outlives the mounts
    mounter = Mounter(binary, scratch, engine, way)
    yield mounter
    complaints = []
    for made in reversed(mounter.made):
        try:
            made.finish()
        except AssertionError as complaint:
            complaints.append(str(complaint))
    assert not complaints, "\n".join(complaints)
    engine.wait_nothing_left()
