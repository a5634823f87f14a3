"""The harness itself: its proxy does the harm it promises, its trees see a difference."""
import json
import os
import subprocess
import threading

import pytest
from harness import tree
from harness.engine import UnixConnection
from harness.proxy import Cut, Reset, SilentCut, Stall, Status
from harness.wait import wait_for


@pytest.fixture
def ask(proxy):
    """ask(method, path, ...): (status, body) through the proxy."""
    def ask(method, path, body=None, **keywords):
        connection = UnixConnection(proxy.host.removeprefix("unix://"), timeout=20)
        try:
            connection.request(method, path, body, **keywords)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
    return ask


def test_passes_requests_on(proxy, ask, engine):
    assert ask("GET", "/v1.41/_ping") == (200, b"OK")
    assert ask("HEAD", "/_ping") == (200, b"")
    assert ask("GET", "/nothing")[0] == 404
    body = json.dumps({"Name": f"t{os.getpid()}-proxy"}).encode()
    status, _ = ask("POST", "/volumes/create", iter([body[:5], body[5:]]),
                    headers={"Content-Type": "application/json"})
    assert status == 201
    assert engine.has_volume(f"t{os.getpid()}-proxy")
    assert ask("DELETE", f"/volumes/t{os.getpid()}-proxy") == (204, b"")
    assert proxy.count("* /_ping") == 2
    assert proxy.count("DELETE /volumes/*") == 1


def test_keeps_the_connection(proxy):
    connection = UnixConnection(proxy.host.removeprefix("unix://"), timeout=20)
    connection.connect()
    kept = connection.sock
    for _ in range(3):
        connection.request("GET", "/version")
        assert "ApiVersion" in json.loads(connection.getresponse().read())
        assert connection.sock is kept
    connection.close()


def test_harm(proxy, ask):
    whole = ask("GET", "/version")[1]
    proxy.on("GET /version", Status(500, "no"))
    assert ask("GET", "/version") == (500, b'{"message":"no"}')
    proxy.on("GET /version", Reset(), times=1)
    with pytest.raises(OSError):
        ask("GET", "/version")
    proxy.on("GET /version", SilentCut(10))
    assert ask("GET", "/version") == (200, whole[:-10])
    proxy.on("GET /version", Cut(10))
    with pytest.raises(Exception) as cut:
        ask("GET", "/version")
    assert cut.value.partial == whole[:10]
    proxy.clear()
    assert ask("GET", "/version") == (200, whole)


@pytest.mark.parametrize("after", [None, 10])
def test_stall(proxy, ask, after):
    whole = ask("GET", "/version")[1]
    stall = proxy.on("GET /version", Stall(after))
    got = []
    asker = threading.Thread(target=lambda: got.append(ask("GET", "/version")), daemon=True)
    asker.start()
    assert stall.reached.wait(10)
    assert not got
    stall.release()
    asker.join(10)
    assert got == [(200, whole)]


def test_attached_streams(proxy, engine):
    """What goes in and out of a container; and harm to it."""
    def echoed(text):
        return subprocess.run(
            ["docker", "run", "-i", "--rm", "--network", "none", engine.image(), "/bin/cat"],
            env={**engine.environment, "DOCKER_HOST": proxy.host}, input=text, check=False,
            capture_output=True, timeout=60).stdout
    data = os.urandom(300_000)
    assert echoed(data) == data
    assert proxy.count("POST */attach") == 1
    proxy.on("POST */attach", Cut(1000))
    assert len(echoed(data)) < 1000             # frames have heads of their own


def test_a_client_that_leaves_takes_its_request_along(proxy, engine):
    connection = UnixConnection(proxy.host.removeprefix("unix://"), timeout=20)
    connection.request("GET", "/events")
    assert connection.getresponse().status == 200
    before = threading.active_count()
    connection.sock.close()
    connection.close()
    wait_for(lambda: threading.active_count() < before, "the proxy's threads ended")


def test_trees_tell_differences(scratch):
    for name in ("a", "b"):
        (scratch / name).mkdir()
        tree.everything(scratch / name)
        tree.whole_seconds(scratch / name)
    one, other = scratch / "a", scratch / "b"
    tree.assert_same(one, other, exact=True)
    for change in (lambda: os.chmod(other / "sizes/512", 0o600),
                   lambda: os.chown(other / "links/sym0", 5, 5, follow_symlinks=False),
                   lambda: os.unlink(other / "links/hard2"),
                   lambda: os.utime(other, (1, 1))):
        before = len(tree.differences(tree.describe(one), tree.describe(other)))
        change()
        assert len(tree.differences(tree.describe(one), tree.describe(other))) > before


def test_a_container_runs(engine, volume):
    name = volume()
    assert engine.run(name, "id -u; echo hello > file") == "0"
    assert (engine.mountpoint(name) / "file").read_text() == "hello\n"


def test_a_private_engine_hangs_and_comes_back(private_engine):
    name = private_engine.volume()
    private_engine.hang()
    with pytest.raises(OSError):
        private_engine.api("GET", "/_ping", timeout=0.3)
    private_engine.resume()
    private_engine.stop()
    private_engine.restart()
    assert private_engine.has_volume(name)
