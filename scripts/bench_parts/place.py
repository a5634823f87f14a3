"""Where it all takes place: the engine, the mounts, the volumes, and the clock."""
import dataclasses
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Optional

from .base import BINARY, TOP, die, progress, run, wait_for

IMAGE = "dvolfs-bench"
MOMENT_SECONDS = 1.1    # younger than a second, a moment is shared: none is made


@dataclasses.dataclass
class Command:
    argv: list
    stdin: Optional[Path] = None
    stdout: Optional[Path] = None
    env: Optional[dict] = None
    cwd: Optional[Path] = None


@dataclasses.dataclass
class Timed:
    """One run of a command."""
    begin: float
    end: float
    wrong: Optional[str]
    errors: str             # what it said on stderr

    @property
    def seconds(self):
        return self.end - self.begin


class Front:
    """A file system whose program runs in front, mounted."""

    def __init__(self, argv, path, env=None, quiet=False):
        self.path = path
        self.ended = 0.0        # when the last copy of now.tar was
        path.mkdir(exist_ok=True)
        with tempfile.TemporaryFile() as output:
            self.process = subprocess.Popen([str(word) for word in argv], env=env,
                                            stdin=subprocess.DEVNULL, stdout=output,
                                            stderr=output if quiet else None,
                                            start_new_session=True)
        try:
            wait_for(lambda: os.path.ismount(path) or self.process.poll() is not None,
                     f"{argv[0]} mounts")
            if self.process.poll() is not None:
                die(f"{argv[0]} failed")
        except BaseException:
            self.close()
            raise

    def close(self):
        unmount(self.path)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            subprocess.run(["umount", "-l", self.path], check=False)

    def new_moment(self):
        time.sleep(max(0.0, self.ended + MOMENT_SECONDS - time.monotonic()))


class Background:
    """A dvolfs that went to the background, as it does when nothing else is said."""

    def __init__(self, path):
        self.path = path

    def close(self):
        unmount(self.path)
        wait_for(lambda: not any(self.runs(entry) for entry in Path("/proc").iterdir()),
                 "mount.dvolfs ends")

    def runs(self, entry):
        try:
            return entry.name.isdigit() and \
                os.fsencode(self.path) in (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False


def unmount(path):
    subprocess.run(["umount", path], check=False, stderr=subprocess.DEVNULL)


@dataclasses.dataclass
class Scene:
    """A volume, and where one run takes place."""
    place: "Place"
    volume: str
    directory: Path         # the volume's, on this machine
    helper: str             # a container that was never started, with the volume at /volume
    archive: Optional[Path] = None      # to write (backup) or to read (restore)

    def at(self, access):
        """The volume's directory in a mount with that access."""
        return self.place.shown(self.place.mounted(access), self)

    @property
    def socket(self):
        return self.place.socket

    def url(self, path):
        return f"http://localhost/containers/{self.helper}/archive?path={path}"

    def docker_run(self, *command):
        return ["docker", "run", "--rm", "--network", "none", "-v", f"{self.volume}:/volume",
                "-v", f"{self.archive.parent}:/backup", IMAGE, *command]


class Place:
    """The engine, the mounts, and all files of a bench, below one directory."""

    def __init__(self, parent, cold):
        self.cold = cold
        self.dir = Path(tempfile.mkdtemp(prefix="dvolfs-bench-", dir=parent))
        self.archives = self.dir / "archives"
        self.socket = self.dir / "engine" / "docker.sock"
        self.host = None
        self.mounts = {}        # of dvolfs, by access, as they come to be asked for
        self.others = []        # Front, Background
        self.serial = 0

    def open(self):
        self.archives.mkdir()
        progress("starting an engine")
        self.host = run(TOP / "scripts" / "engine", "start", self.dir / "engine")
        for name in [name for name in os.environ if name.startswith("DOCKER_")]:
            del os.environ[name]
        os.environ["DOCKER_HOST"] = self.host
        os.environ["DOCKER_CONFIG"] = str(self.dir / "docker")
        run("docker", "import", "-", IMAGE, input=busybox_image(), stdin=None)

    def close(self):
        self.unmount_all()
        subprocess.run([TOP / "scripts" / "engine", "stop", self.dir / "engine"], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)
        if self.dir.exists():
            die(f"{self.dir} could not be removed")

    # ---- mounts

    def path(self, name):
        """One below the place that nothing has yet."""
        self.serial += 1
        return self.dir / f"{name}-{self.serial}"

    def dvolfs(self, access, store):
        """
        A dvolfs in front, to be closed by release. agent-asked: one to which agents do not
        hand their directories, because it may not read all files, as an ordinary user's.
        """
        path = self.path("mount")
        asks = access == "agent-asked"
        way = ["setpriv", "--bounding-set=-dac_read_search", "--"] if asks else []
        options = f"store={store},access={'agent' if asks else access}"
        return self.front([*way, BINARY, self.host, path, "-f", "-o", options], path)

    def front(self, argv, path, env=None, quiet=False):
        self.others.append(Front(argv, path, env, quiet))
        return self.others[-1]

    def background(self, path):
        self.others.append(Background(path))
        return self.others[-1]

    def release(self, mount):
        mount.close()
        self.others.remove(mount)

    def mounted(self, access):
        """The mount of that access, which lasts as long as the section."""
        if access not in self.mounts:
            self.mounts[access] = self.dvolfs(access, self.dir / "store")
        return self.mounts[access]

    @staticmethod
    def shown(mount, scene):
        wait_for((mount.path / scene.volume).is_dir, f"dvolfs shows {scene.volume}")
        return mount.path / scene.volume

    def unmount_all(self):
        while self.others:
            self.others.pop().close()
        self.mounts = {}

    # ---- volumes

    def volume(self):
        """A new empty volume: a Scene without an archive."""
        self.serial += 1
        volume = run("docker", "volume", "create", f"bench-{self.serial}")
        directory = run("docker", "volume", "inspect", "-f", "{{.Mountpoint}}", volume)
        helper = run("docker", "create", "--network", "none", "-v", f"{volume}:/volume", IMAGE,
                     "true")
        scene = Scene(self, volume, Path(directory), helper)
        for mount in self.mounts.values():
            self.shown(mount, scene)
        return scene

    def remove(self, scene):
        run("docker", "rm", "-f", scene.helper)
        self.no_helpers(scene)
        run("docker", "volume", "rm", scene.volume)

    @staticmethod
    def no_helpers(scene):
        """Wait until dvolfs has no container with the volume: agents stay for a while."""
        wait_for(lambda: not run("docker", "ps", "-aq", "--filter", "label=dvolfs.helper",
                                 "--filter", f"volume={scene.volume}"), "the agent goes")

    # ---- time

    def settle(self, cold=None):
        os.sync()
        if self.cold if cold is None else cold:
            Path("/proc/sys/vm/drop_caches").write_text("3\n")

    def time(self, command, cold=None, prepare=None):
        """Run a command by the clock; prepare() is called last before it."""
        self.settle(cold)
        if prepare:
            prepare()
        with open(command.stdin or os.devnull, "rb") as stdin, \
             open(command.stdout or os.devnull, "wb") as stdout, \
             tempfile.TemporaryFile(dir=self.dir) as stderr:
            argv = [str(word) for word in command.argv]
            begin = time.monotonic()
            process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr,
                                       env=command.env, cwd=command.cwd, start_new_session=True)
            try:
                status = process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            end = time.monotonic()
            stderr.seek(0)
            errors = stderr.read().decode(errors="replace").strip()
        reason = errors.splitlines()[-1] if errors else "no reason given"
        return Timed(begin, end, f"exit status {status}: {reason}" if status else None, errors)

    def time_copy(self, mount, command, prepare=None):
        """The same of a copy out of a dvolfs' moment: of one that nobody else began."""
        mount.new_moment()
        timed = self.time(command, prepare=prepare)
        mount.ended = time.monotonic()
        return timed


def busybox_image():
    """A tar of a root file system of busybox alone."""
    busybox = shutil.which("busybox") or die("busybox is not installed")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(os.path.realpath(busybox), "bin/busybox")
        for name in ("sh", "tar", "gzip", "gunzip", "true"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return data.getvalue()
