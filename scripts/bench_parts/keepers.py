"""Who keeps snapshots: dvolfs, and those it is compared with."""
import contextlib
import json
import os
import shutil

from .base import run
from .data import Census, complaint, complaint_of_archive
from .place import Command


class Keeper:
    """
    One that keeps snapshots of a volume: fresh() gives it an empty store, take(name) is
    the command that keeps one, complaint(name, contents) says what is wrong with it
    (contents: see census_of_archive; those that ask by their own listing ignore them).
    """
    key, name, slow = "", "", False
    mount = None        # that takes it, of dvolfs

    def __init__(self, scene, wanted):
        self.scene, self.wanted = scene, wanted
        self.place = scene.place
        self.store = self.place.path(self.key)

    def remove(self):
        if self.store.is_dir():
            shutil.rmtree(self.store)
        else:
            self.store.unlink(missing_ok=True)

    def fresh(self):
        self.remove()

    def bytes_of(self, _name):
        """How much a snapshot takes, the first one of a store: all that is in there."""
        files = [self.store] if self.store.is_file() else \
            [os.path.join(path, name) for path, _, names in os.walk(self.store) for name in names]
        return sum(os.path.getsize(file) for file in files)

    @contextlib.contextmanager
    def opened(self, name):
        """The snapshot as a directory, by a mount of its own."""
        raise NotImplementedError


class Dvolfs(Keeper):
    key, name = "dvolfs", "dvolfs, touch"

    def close(self):
        if self.mount:
            self.place.release(self.mount)
            self.mount = None

    def open(self):
        self.mount = self.place.dvolfs("auto", self.store)
        self.place.shown(self.mount, self.scene)

    def remove(self):
        self.close()
        super().remove()

    def fresh(self):
        self.remove()
        self.open()

    def path_open(self, name):
        """The snapshot as a directory, in the mount that took it."""
        return self.mount.path / self.scene.volume / "browse" / name

    def path(self, name):
        return self.mount.path / self.scene.volume / "snapshots" / f"{name}.tar.zst"

    def take(self, name):
        return Command(["touch", self.path(name)])

    def complaint(self, name, contents):
        return complaint_of_archive(self.path(name), self.wanted, contents)

    def bytes_of(self, name):
        return self.path(name).stat().st_size

    @contextlib.contextmanager
    def opened(self, name):
        self.close()
        try:
            self.open()
            yield self.path_open(name)
        finally:
            self.close()


class Restic(Keeper):
    # Without its cache: that would be a second copy of a repository that is here already.
    key, name = "restic", "restic"

    def __init__(self, scene, wanted):
        super().__init__(scene, wanted)
        self.env = {key: value for key, value in os.environ.items()
                    if not key.startswith("RESTIC_")}
        self.env |= {"RESTIC_REPOSITORY": str(self.store), "RESTIC_PASSWORD": "bench"}

    def ask(self, *command):
        return run("restic", "--no-cache", *command, env=self.env)

    def fresh(self):
        super().fresh()
        self.ask("init")

    def take(self, name):
        return Command(["restic", "--no-cache", "--quiet", "backup", "--tag", name,
                        self.scene.directory], env=self.env)

    def complaint(self, name, _contents):
        lines = self.ask("ls", "--json", "--recursive", "--tag", name, "latest",
                         self.scene.directory).splitlines()
        nodes = [node for node in map(json.loads, lines) if node["struct_type"] == "node"]
        files = [node.get("size", 0) for node in nodes if node["type"] == "file"]
        return complaint(Census(len(nodes), len(files), sum(files)), self.wanted)

    @contextlib.contextmanager
    def opened(self, name):
        snapshot = json.loads(self.ask("snapshots", "--json", "--tag", name, "--latest", "1"))[-1]
        path = self.place.path("restic-mount")
        # It says that it cannot unmount what is unmounted.
        mount = self.place.front(["restic", "--no-cache", "mount", path], path, self.env,
                                 quiet=True)
        try:
            yield path / "ids" / snapshot["short_id"] / str(self.scene.directory).lstrip("/")
        finally:
            self.place.release(mount)


class Borg(Keeper):
    key, name, slow = "borg", "borg, not encrypted, zstd,3", True

    def __init__(self, scene, wanted):
        super().__init__(scene, wanted)
        self.home = self.place.path("borg-home")
        self.env = {key: value for key, value in os.environ.items()
                    if not key.startswith("BORG_")}
        self.env |= {"BORG_BASE_DIR": str(self.home),
                     "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}

    def fresh(self):
        super().fresh()
        shutil.rmtree(self.home, ignore_errors=True)
        run("borg", "init", "--encryption", "none", self.store, env=self.env)

    def take(self, name):
        return Command(["borg", "create", "--compression", "zstd,3", f"{self.store}::{name}", "."],
                       env=self.env, cwd=self.scene.directory)

    def complaint(self, name, _contents):
        lines = run("borg", "list", "--json-lines", f"{self.store}::{name}", env=self.env)
        nodes = [json.loads(line) for line in lines.splitlines()]
        files = [node["size"] for node in nodes if node["type"] == "-"]
        return complaint(Census(len(nodes), len(files), sum(files)), self.wanted)


class TarZstd(Keeper):
    key, name = "tar-zstd", "tar | zstd -T0 -3, sync"

    def __init__(self, scene, wanted):
        super().__init__(scene, wanted)
        self.store = self.store.with_name(f"{self.store.name}.tar.zst")

    def take(self, _name):
        return Command(["bash", "-o", "pipefail", "-c",
                        'tar -C "$0" -c . | zstd -q -T0 -3 -o "$1" && sync "$1"',
                        self.scene.directory, self.store])

    def complaint(self, _name, contents):
        return complaint_of_archive(self.store, self.wanted, contents)


class Squashfs(Keeper):
    key, name = "squashfs", "mksquashfs, zstd level 3, sync"

    def take(self, _name):
        return Command(["bash", "-c", 'mksquashfs "$0" "$1" -comp zstd -Xcompression-level 3 '
                        '-noappend -no-progress -quiet >/dev/null && sync "$1"',
                        self.scene.directory, self.store])

    def complaint(self, _name, _contents):
        lines = run("unsquashfs", "-lln", self.store).splitlines()
        nodes = [line.split(None, 3) for line in lines if line[:1] in tuple("-dlbcps")]
        files = [int(node[2]) for node in nodes if node[0][0] == "-"]
        return complaint(Census(len(nodes), len(files), sum(files)), self.wanted)

    @contextlib.contextmanager
    def opened(self, _name):
        path = self.place.path("squashfs-mount")
        mount = self.place.front(["squashfuse_ll", "-f", self.store, path], path)
        try:
            yield path
        finally:
            self.place.release(mount)
