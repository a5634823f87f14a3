"""One run of mount.dvolfs: its mount, its process, and what it must not leave behind."""
import json
import os
import re
import subprocess
from pathlib import Path

from .wait import wait_for

MOUNT_SECONDS = 30
END_SECONDS = 30        # a leak check at exit takes its time


def mounts(path, pid="self"):
    """[(source, type, options)] of what is mounted at `path`, as process `pid` sees it."""
    found = []
    for line in Path(f"/proc/{pid}/mounts").read_text().splitlines():
        source, point, kind, options = [
            re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)
            for field in line.split(" ")[:4]]
        if point == str(path):
            found.append((source, kind, options))
    return found


class Namespace:
    """A mount namespace of its own, to put files over the host's unseen by it.

    It has no copy of mounts of dvolfs: one that is unmounted elsewhere would live on in it,
    and its daemon, which another test waits for, with it.
    """

    def __init__(self, scratch):
        self.scratch = scratch
        self.fuse_is_open = False
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c",
             "while read -r _ point type _; do case $type in fuse.dvolfs)"
             "   umount --no-canonicalize --lazy \"$point\";; esac; done < /proc/self/mounts;"
             "echo ready; exec sleep infinity"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.holder.stdout.readline()

    @property
    def pid(self):
        return self.holder.pid

    def prefix(self, user=None):
        enter = ["nsenter", "--mount", "--target", str(self.pid), "--"]
        return enter + (user.prefix() if user else [])

    def run(self, *command, user=None, **options):
        options = {"check": True, "capture_output": True, "text": True, "timeout": 60, **options}
        return subprocess.run([*self.prefix(user), *map(str, command)], **options)

    def open_fuse(self):
        """Let every user open /dev/fuse, as udev does on most machines."""
        if self.fuse_is_open:
            return
        self.fuse_is_open = True
        self.run("sh", "-eu", "-c", f"""
            mkdir -p '{self.scratch}/dev'
            mount -t tmpfs -o mode=0755 tmpfs '{self.scratch}/dev'
            mknod '{self.scratch}/dev/fuse' c 10 229
            chmod 0666 '{self.scratch}/dev/fuse'
            mount --bind '{self.scratch}/dev/fuse' /dev/fuse""")

    def install(self, binary):
        """Have mount(8) find the program where it looks for its helpers."""
        sbin, layer = os.path.realpath("/sbin"), self.scratch / "sbin"
        self.run("sh", "-eu", "-c", f"""
            mkdir -p '{layer}'
            mount -t tmpfs tmpfs '{layer}'
            mkdir '{layer}/upper' '{layer}/work'
            mount -t overlay -o lowerdir={sbin},upperdir='{layer}/upper',workdir='{layer}/work' \
                overlay {sbin}
            ln -sf '{binary}' {sbin}/mount.dvolfs""")

    def fstab(self, line):
        table = self.scratch / "fstab"
        table.write_text(line + "\n")
        self.run("mount", "--bind", table, "/etc/fstab")

    def close(self):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()


class User:
    """Somebody who is not root, but may use the engine."""

    def __init__(self, engine_socket, uid=65534, gid=65534):
        self.uid, self.gid = uid, gid
        self.group = os.stat(engine_socket).st_gid

    def prefix(self):
        return ["setpriv", "--reuid", str(self.uid), "--regid", str(self.gid),
                "--groups", str(self.group), "--inh-caps=-all", "--"]


class Mount:
    """A mount of mount.dvolfs at `path`.

    `command` mounts it; `home` is a directory for what the daemon writes.
    """

    def __init__(self, binary, path, command, home, namespace=None, user=None, environment=()):
        self.binary = os.path.realpath(binary)
        self.path = Path(path)
        self.command = [str(word) for word in command]
        self.namespace = namespace
        self.user = user
        self.sanitizer = home / "sanitizer"
        self.sanitizer.mkdir(mode=0o777, exist_ok=True)
        self.sanitizer.chmod(0o777)
        self.environment = {
            **os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"),
            "ASAN_OPTIONS": f"log_path={self.sanitizer}/asan:detect_leaks=1:abort_on_error=0",
            "UBSAN_OPTIONS": f"log_path={self.sanitizer}/ubsan:print_stacktrace=1",
            **dict(environment)}
        for name in ("DOCKER_CONTEXT", "XDG_DATA_HOME"):
            self.environment.pop(name, None)
        self.pid = None
        self.front = None       # the process of a mount with -f
        self.killed = False     # a test ended the daemon; no complaint

    # What the tests read and write.
    def volume(self, name):
        return self.path / name

    def now(self, name):
        return self.path / name / "snapshots" / "now.tar"

    def data(self, name):
        return self.path / name / "data"

    def told(self, name):
        """What volume.json tells of how it reads the volume."""
        return json.loads(self.run("cat", self.path / name / "volume.json").stdout)["dvolfs"]

    def access(self, name):
        """By which way it reads the volume."""
        return self.told(name)["access"]

    def status(self):
        """What status.json tells."""
        return json.loads(self.run("cat", self.path / ".dvolfs/status.json").stdout)

    def restore(self, name, archive=""):
        return self.path / name / "restore" / archive

    def log(self):
        return (self.path / ".dvolfs" / "log").read_text()

    def wrapped(self, command):
        if self.namespace:
            return self.namespace.prefix(self.user) + command
        return (self.user.prefix() if self.user else []) + command

    def run(self, *command, **options):
        """Run a command as the one who mounted, where the mount is seen."""
        options = {"capture_output": True, "text": True, "errors": "replace", "timeout": 120,
                   **options}
        return subprocess.run(self.wrapped([str(word) for word in command]), check=False, **options)

    def attempt(self):
        """Run the mounting command; the CompletedProcess."""
        return subprocess.run(self.wrapped(self.command), env=self.environment, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=MOUNT_SECONDS)

    def mounted(self):
        return mounts(self.path, self.namespace.pid if self.namespace else "self")

    def start(self):
        done = self.attempt()
        assert done.returncode == 0, f"{self.command}: exit {done.returncode}: {done.stderr}"
        assert self.mounted(), f"{self.command}: exit 0, and nothing is mounted"
        self.pid = wait_for(self.find, f"the daemon of {self.path} runs")
        return self

    def start_in_front(self):
        # Whoever runs the tests may have SIGHUP ignored (nohup), and it would be here.
        command = ["env", "--default-signal", *self.command]
        self.front = subprocess.Popen(self.wrapped(command), env=self.environment,
                                      stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: self.mounted() or self.front.poll() is not None, "the mount is there",
                 MOUNT_SECONDS)
        self.pid = wait_for(self.find, f"the daemon of {self.path} runs")
        return self

    def find(self):
        """The daemon's pid, once there is exactly one such process."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if (entry.name.isdigit() and os.readlink(entry / "exe") == self.binary
                        and os.fsencode(str(self.path)) in
                        (entry / "cmdline").read_bytes().split(b"\0")):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found[0] if len(found) == 1 else None

    def alive(self):
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":        # its threads may still be on their way out
                return len(os.listdir(f"/proc/{self.pid}/task")) > 1
            return os.readlink(f"/proc/{self.pid}/exe") == self.binary
        except OSError:
            return False

    def kill(self, number):
        self.killed = True
        os.kill(self.pid, number)
        wait_for(lambda: not self.alive(), "the daemon is dead")

    def umount(self):
        """Unmount as its owner would, and wait for the daemon's end."""
        command = ["fusermount3", "-u", str(self.path)] if self.user else ["umount", str(self.path)]
        wait_for(lambda: self.run(*command).returncode == 0 or not self.mounted(),
                 f"{self.path} can be unmounted")
        wait_for(lambda: not self.alive(), "the daemon ended after umount", END_SECONDS)
        self.killed = True

    def status_kb(self, field):
        """A field of the daemon's /proc status, such as VmRSS."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)[1])

    def has_sanitizer(self):
        """Whether the daemon is built with ASan, which keeps freed memory for a while."""
        maps = Path(f"/proc/{self.pid}/maps").read_text(errors="replace")
        return "libasan" in maps

    def threads(self):
        return self.status_kb("Threads")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def spooled(self):
        """The files that the daemon has open in its spool; they have no names."""
        found = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(os.readlink(link))
            except FileNotFoundError:
                continue
        return [name for name in found if "/.spool/" in name]

    def sanitized(self):
        """What the sanitizers said, as text."""
        return "".join(p.read_text(errors="replace") for p in sorted(self.sanitizer.iterdir()))

    def finish(self):
        """End it at the end of a test; AssertionError if it was not in order."""
        died = self.pid is not None and not self.killed and not self.alive()
        try:
            if self.pid is not None and not self.killed and not died:
                self.umount()
        finally:
            while self.pid is not None and self.mounted():
                subprocess.run([*(self.namespace.prefix() if self.namespace else []),
                                "umount", "-l", str(self.path)], check=True)
            if self.pid is not None and self.alive():
                os.kill(self.pid, 9)
            if self.front:
                self.front.kill()
                self.front.wait()
                self.front.stderr.close()
        assert not died, f"the daemon died by itself\n{self.sanitized()}"
        assert not self.sanitized(), self.sanitized()
