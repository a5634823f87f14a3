"""A Docker engine as the tests use it: the docker CLI, the API, the volumes' directories."""
import http.client
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import urllib.parse
from pathlib import Path

from .wait import wait_for

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "engine"
HELPER_LABEL = "dvolfs.helper"
HELPER_IMAGE_LABEL = "dvolfs.image"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path, timeout=60):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def busybox_image():
    """A tar of a root file system that holds busybox alone."""
    busybox = shutil.which("busybox")
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(os.path.realpath(busybox), "bin/busybox")
        for name in names.stdout.split():
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
    return data.getvalue()


class Engine:
    """An engine that answers at `host`; all that is made through it goes with clean()."""

    serial = itertools.count(1)

    def __init__(self, host, scratch):
        self.host = host
        self.socket = host.removeprefix("unix://")
        self.environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(scratch)}
        self.tag = f"dvolfs-test:{os.getpid()}"
        self.imported = False
        self.volumes = []
        self.containers = []

    def api(self, method, path, body=None, timeout=60):
        """(status, decoded JSON, or bytes where the answer is none)."""
        connection = UnixConnection(self.socket, timeout)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(data)
        except ValueError:
            return answer.status, data

    def api_minor(self):
        return int(self.api("GET", "/version")[1]["ApiVersion"].split(".")[1])

    def docker(self, *arguments, **options):
        """What `docker ARGUMENTS` prints; CalledProcessError if it fails."""
        done = subprocess.run(["docker", *arguments], env=self.environment, check=True,
                              stdout=subprocess.PIPE, timeout=120, **options)
        return done.stdout.decode().strip()

    def image(self):
        if not self.imported:
            self.docker("import", "-", self.tag, input=busybox_image())
            self.imported = True
        return self.tag

    def volume(self, name=None, **options):
        """Create a volume, by default with a name that no other has; returns its name."""
        name = name or f"t{os.getpid()}-{next(self.serial)}"
        status, answer = self.api("POST", "/volumes/create", {"Name": name, **options})
        assert status == 201, answer
        self.volumes.append(name)
        return name

    def remove_volume(self, name):
        status, answer = self.api("DELETE", f"/volumes/{urllib.parse.quote(name)}?force=1")
        assert status in (204, 404), answer
        if name in self.volumes:
            self.volumes.remove(name)

    def has_volume(self, name):
        return self.api("GET", f"/volumes/{urllib.parse.quote(name)}")[0] == 200

    def mountpoint(self, name):
        """The directory of a volume on this machine."""
        status, answer = self.api("GET", f"/volumes/{urllib.parse.quote(name)}")
        assert status == 200, answer
        return Path(answer["Mountpoint"])

    def run(self, volume, script, *options):
        """Run a shell script in /v, the volume, in a container; what it prints."""
        return self.docker("run", "--rm", "--network", "none", "-v", f"{volume}:/v", "-w", "/v",
                           *options, self.image(), "/bin/sh", "-c", script)

    def start(self, volume, *options, mode="rw", script="exec sleep 100000"):
        """A running container that has the volume at /v and runs a script there; its id."""
        container = self.docker("run", "-d", "--network", "none", "-v", f"{volume}:/v:{mode}",
                                "-w", "/v", *options, self.image(), "/bin/sh", "-c", script)
        self.containers.append(container)
        return container

    def remove_container(self, container):
        status, answer = self.api("DELETE", f"/containers/{container}?force=1&v=1")
        assert status in (204, 404, 409), answer
        if container in self.containers:
            self.containers.remove(container)

    def helpers(self):
        """Ids of the helper containers there are."""
        filters = urllib.parse.quote(json.dumps({"label": [HELPER_LABEL]}))
        status, answer = self.api("GET", f"/containers/json?all=1&filters={filters}")
        assert status == 200, answer
        return [container["Id"] for container in answer]

    def inspect(self, container):
        """What `docker inspect` tells of a container."""
        status, answer = self.api("GET", f"/containers/{container}/json")
        assert status == 200, answer
        return answer

    def helper(self):
        """What `docker inspect` tells of the one helper, once it runs."""
        def running():
            answers = [self.api("GET", f"/containers/{helper}/json") for helper in self.helpers()]
            if len(answers) == 1 and answers[0][0] == 200 and answers[0][1]["State"]["Running"]:
                return answers[0][1]
            return None                     # a listing may be ahead of inspection, or behind
        return wait_for(running, "one helper runs")

    def helper_images(self):
        """Ids of their images, also of those that lost their name to a newer one."""
        filters = urllib.parse.quote(json.dumps({"label": [HELPER_IMAGE_LABEL]}))
        status, answer = self.api("GET", f"/images/json?filters={filters}")
        assert status == 200, answer
        return [image["Id"] for image in answer]

    def wait_no_helpers(self, seconds=15):
        wait_for(lambda: not self.helpers(), "the helper containers are gone", seconds)

    def wait_nothing_left(self, seconds=15):
        self.wait_no_helpers(seconds)
        wait_for(lambda: not self.helper_images(), "the helper images are gone", seconds)

    def clean(self):
        """Remove the containers and volumes of a test."""
        for container in list(self.containers):
            self.remove_container(container)
        for name in list(self.volumes):
            wait_for(lambda: self.api("DELETE", f"/volumes/{urllib.parse.quote(name)}")[0]
                     in (204, 404), f"volume {name} can be removed")
        self.volumes.clear()
        for image in self.helper_images():      # one that leaves them shall fail alone
            self.api("DELETE", f"/images/{image}?force=1")

    def close(self):
        self.clean()
        if self.imported:
            self.docker("image", "rm", "-f", self.tag)


class PrivateEngine(Engine):
    """An engine of the test's own in `directory`: it may be stopped, hung, killed."""

    def __init__(self, directory, scratch):
        self.directory = Path(directory)
        super().__init__(self.restart(), scratch)

    def restart(self):
        """Start it, with the data that it had; its host."""
        done = subprocess.run([SCRIPT, "start", self.directory], check=True, timeout=120,
                              stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    def stop(self):
        """End it as an administrator would; its data stay."""
        subprocess.run([SCRIPT, "stop", "--keep", self.directory], check=True, timeout=120)

    @property
    def pid(self):
        return int((self.directory / "pid").read_text())

    def hang(self):
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)

    def close(self):
        subprocess.run([SCRIPT, "stop", self.directory], check=True, timeout=120)
