"""The agent: a helper container that reads a volume, its life, its limits and its ends."""
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import tree
from harness.command import run
from harness.proxy import Cut, Stall, Status
from harness.wait import wait_for

pytestmark = pytest.mark.access("agent", "agent-stream")

SOON = 10       # "within a few seconds", on a busy machine


@pytest.fixture
def filled(engine, volume):
    """A volume with a few files in it."""
    name = volume()
    tree.simple(engine.mountpoint(name))
    return name


def look(made, name):
    """Use the volume: read a file of it, not from the page cache."""
    fd = os.open(made.data(name) / "data.bin", os.O_RDONLY | os.O_DIRECT)
    try:
        return os.preadv(fd, [bytearray(1000)], 0)
    finally:
        os.close(fd)


def process(engine):
    """The pid of the one helper's program."""
    return engine.helper()["State"]["Pid"]


def whole(path):
    """The bytes of a file, none of them from the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return rest(fd, 0)
    finally:
        os.close(fd)


def rest(fd, offset):
    found = bytearray()
    block = bytearray(1 << 20)
    while n := os.preadv(fd, [block], offset + len(found)):
        found += block[:n]
    return bytes(found)


def start(*command):
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def waits(process_):
    """Whether a process that was started waits for a FUSE answer."""
    try:
        return "fuse" in Path(f"/proc/{process_.pid}/stack").read_text()
    except OSError:
        return False


# Its life
def test_it_is_the_way(mount, filled):
    made = mount()
    assert made.access(filled) == "agent" and made.told(filled)["not_local"]
    assert made.status()["agent"] == "yes" and made.status()["local"] != "yes"


def test_started_when_it_is_needed(mount, proxy, engine, filled):
    """Looking around makes none."""
    made = mount(proxy)
    run("ls", "-la", made.path)
    run("ls", made.volume(filled))
    run("ls", made.volume(filled) / "snapshots", made.volume(filled) / "restore")
    made.told(filled), made.status(), made.log()
    assert proxy.count("POST *") == 0 and engine.helpers() == []
    look(made, filled)
    assert proxy.count("POST */start") == 1 and len(engine.helpers()) == 1


@pytest.mark.parametrize("use", ["data", "listing", "now.tar", "size"])
def test_gone_soon_after_the_last_use(mount, engine, filled, use):
    """And then the volume can be removed."""
    made = mount()
    {"data": lambda: look(made, filled), "listing": lambda: os.listdir(made.data(filled)),
     "now.tar": lambda: whole(made.now(filled)), "size": lambda: os.stat(made.now(filled)),
     }[use]()
    wait_for(lambda: engine.api("DELETE", f"/volumes/{filled}")[0] == 204, "it can be removed",
             SOON)
    assert engine.helpers() == []


def test_kept_while_it_is_used(mount, engine, filled):
    made = mount()
    look(made, filled)
    first = engine.helpers()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        look(made, filled)
        assert engine.helpers() == first


def test_it_comes_again(mount, engine, filled):
    made = mount()
    for _ in range(3):
        assert look(made, filled) == 1000
        wait_for(lambda: not engine.helpers(), "it is gone", SOON)


def test_gone_with_the_mount(mount, engine, filled):
    made = mount()
    look(made, filled)
    assert len(engine.helpers()) == 1
    made.umount()
    assert engine.helpers() == []


def test_volume_json_tells_of_it(mount, engine, filled, way, in_place):
    """Who wonders why the volume is in use finds it there, and docker ps tells the volume."""
    made = mount()
    assert "helper" not in made.told(filled)
    look(made, filled)
    helper = engine.helper()
    told = made.told(filled)["helper"]
    assert helper["Id"][:12] in told
    assert ("handed over the volume's directory" if in_place else
            "sends the bytes" if way == "agent-stream" else "hands its files over") in told
    assert filled in helper["Config"]["Labels"].values()
    wait_for(lambda: not engine.helpers(), "it is gone", SOON)
    wait_for(lambda: "helper" not in made.told(filled), "that is told")


def test_it_is_no_user_of_the_volume(mount, engine, filled, archive):
    """It stands in the way of no restore, and is not listed among the containers."""
    made = mount()
    look(made, filled)
    assert made.run("cp", archive, made.restore(filled)).returncode == 0
    look(made, filled)
    assert '"Containers":\t[]' in (made.volume(filled) / "volume.json").read_text()


def test_one_for_each_volume(mount, engine, volume):
    names = [volume() for _ in range(3)]
    for name in names:
        (engine.mountpoint(name) / "name").write_text(name)
    made = mount()
    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(lambda n: (made.data(names[n % 3]) / "name").read_text()
                            == names[n % 3], range(60)))
    assert len(engine.helpers()) == 3


def test_more_volumes_than_helpers_at_once(mount, engine, volume):
    names = [volume() for _ in range(24)]
    for name in names:
        (engine.mountpoint(name) / "name").write_text(name)
    made = mount()
    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(lambda name: (made.data(name) / "name").read_text(), names)) == names


# Its limits
DAC_READ_SEARCH, FOWNER = 2, 3


def test_what_docker_tells_of_it(mount, engine, filled):
    made = mount()
    look(made, filled)
    facts = engine.helper()
    host = facts["HostConfig"]
    assert host["NetworkMode"] == "none" and host["ReadonlyRootfs"] and not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    assert sorted(cap.removeprefix("CAP_") for cap in host["CapAdd"]) == ["DAC_READ_SEARCH",
                                                                          "FOWNER"]
    assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    assert not any("unconfined" in option for option in host["SecurityOpt"])
    assert host["LogConfig"]["Type"] == "none"
    assert (host["PidMode"], host["RestartPolicy"]["Name"]) in (("", ""), ("", "no"))
    assert host["IpcMode"] != "host" and not host["PortBindings"] and not host["Devices"]
    volumes = [each for each in facts["Mounts"] if each["Type"] == "volume"]
    assert [(each["Name"], each["RW"]) for each in volumes] == [(filled, False)]
    assert "dvolfs.helper" in facts["Config"]["Labels"]


def test_what_the_kernel_tells_of_it(mount, engine, filled):
    made = mount()
    look(made, filled)
    pid = process(engine)
    told = dict(re.findall(r"^(\w+):\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M))
    wanted = 1 << DAC_READ_SEARCH | 1 << FOWNER
    assert int(told["CapEff"], 16) == int(told["CapPrm"], 16) == int(told["CapBnd"], 16) == wanted
    assert told["NoNewPrivs"] == "1"
    if "Seccomp" in told:
        assert told["Seccomp"] == "2"
    mounted = {line.split(" ")[1]: line.split(" ")[3].split(",")
               for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()}
    assert "ro" in mounted["/"] and "ro" in mounted["/volume"]
    interfaces = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_the_program_is_alone_in_it(mount, engine, filled):
    made = mount()
    look(made, filled)
    pid = process(engine)
    assert len(engine.docker("top", engine.helpers()[0]).splitlines()) == 2
    files = [path for path in Path(f"/proc/{pid}/root").iterdir()
             if path.is_file() and path.stat().st_size]
    assert len(files) == 1 and os.path.samefile(files[0], f"/proc/{pid}/exe")


def directory_of(helper):
    """Where the socket lies, that is bound into the helper; None without one."""
    bound = [each["Source"] for each in helper["Mounts"] if each["Type"] == "bind"]
    assert len(bound) <= 1
    return Path(bound[0]).parent if bound else None


@pytest.mark.access("agent-stream")
def test_a_stream_needs_no_socket(mount, engine, filled):
    made = mount()
    look(made, filled)
    assert directory_of(engine.helper()) is None
    sockets = [os.readlink(link) for link in Path(f"/proc/{process(engine)}/fd").iterdir()]
    assert not any(name.startswith("socket:") for name in sockets)


@pytest.mark.access("agent")
def test_the_sockets_directory_is_private_and_goes(mount, engine, filled):
    made = mount()
    look(made, filled)
    directory = directory_of(engine.helper())
    status = os.stat(directory)
    assert stat.S_IMODE(status.st_mode) == 0o700 and status.st_uid == 0
    made.umount()
    assert not directory.exists()


@pytest.mark.access("agent")
def test_the_next_mount_removes_what_a_dead_one_left(mount, engine, filled):
    made, alive = mount(), mount()
    look(made, filled)
    directory = directory_of(engine.helper())
    wait_for(lambda: not engine.helpers(), "it is gone", SOON)
    look(alive, filled)
    others = directory_of(engine.helper())
    made.kill(signal.SIGKILL)
    assert directory.exists()
    mount()
    assert not directory.exists() and others.exists()


# Its ends
def test_a_killed_daemons_helper_goes_and_nothing_else(mount, engine, filled, volume):
    """By itself, or with the next mount; no volume goes with it, nor what is in it."""
    container = engine.docker("create", "-v", "/x", engine.image(), "/bin/true")
    engine.containers.append(container)
    anonymous = engine.inspect(container)["Mounts"][0]["Name"]
    engine.volumes.append(anonymous)
    assert re.fullmatch("[0-9a-f]{64}", anonymous)
    tree.simple(engine.mountpoint(anonymous))
    names = (filled, anonymous)
    before = [tree.describe(engine.mountpoint(name), exact=True) for name in names]
    made = mount()
    for name in names:
        look(made, name)
    assert len(engine.helpers()) == 2
    assert engine.api("DELETE", f"/containers/{container}")[0] == 204   # -v is not given
    made.kill(signal.SIGKILL)
    mount(path=made.path)
    engine.wait_no_helpers()
    assert all(engine.has_volume(name) for name in names)
    for name, state in zip(names, before, strict=True):
        tree.assert_same(state, tree.describe(engine.mountpoint(name), exact=True))


def test_an_anonymous_volume_stays(mount, engine):
    """Its own container is gone, and the helper that reads it goes as well."""
    container = engine.docker("create", "-v", "/x", engine.image(), "/bin/true")
    name = engine.inspect(container)["Mounts"][0]["Name"]
    engine.volumes.append(name)
    tree.simple(engine.mountpoint(name))
    assert engine.api("DELETE", f"/containers/{container}")[0] == 204
    made = mount()
    look(made, name)
    wait_for(lambda: not engine.helpers(), "it is gone", SOON)
    look(made, name)
    made.umount()
    assert engine.has_volume(name)
    assert (engine.mountpoint(name) / "data.bin").stat().st_size == 300_000


KILL = {"docker kill": lambda engine: engine.docker("kill", engine.helpers()[0]),
        "docker rm -f": lambda engine: engine.docker("rm", "-f", engine.helpers()[0]),
        "kill -9": lambda engine: os.kill(process(engine), signal.SIGKILL)}


@pytest.mark.parametrize("how", KILL)
@pytest.mark.parametrize("what", ["now.tar", "data"])
def test_killed_while_it_is_read(mount, engine, volume, how, what):
    """The reader gets the right bytes, all of them, or an error; and the next reader all."""
    name = volume()
    top = engine.mountpoint(name)
    for number in range(20):
        tree.write(top / f"small{number:02}", os.urandom(5000))
    tree.write(top / "big", os.urandom(20 << 20))
    tree.whole_seconds(top)
    made = mount()
    path = made.now(name) if what == "now.tar" else made.data(name) / "big"
    expected = whole(path)
    if what == "data":
        assert expected == (top / "big").read_bytes()
    for begin in (1000, 1 << 20, 15 << 20):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        got = bytearray(begin)
        assert os.preadv(fd, [got], 0) == begin
        KILL[how](engine)
        try:
            assert bytes(got) + rest(fd, begin) == expected
        except OSError:
            pass
        os.close(fd)
        assert whole(path) == expected, "the next access works again"


def test_killed_under_everything(mount, engine, volume, scratch):
    """Tools under way end well or fail; none of them ends well with less."""
    name = volume()
    top = engine.mountpoint(name)
    for number in range(200):
        tree.write(top / f"{number:03}", os.urandom(40_000))
    tree.whole_seconds(top)
    made = mount()
    def rounds(number):
        out = scratch / f"{number}"
        wrong = []
        for _ in range(6):
            if number % 2:
                done = made.run("cp", made.now(name), out)
                if done.returncode == 0 and tree.tar_differences(out, top):
                    wrong.append("now.tar")
            else:
                done = made.run("cp", "-r", f"{made.data(name)}/.", out)
                if done.returncode == 0 and subprocess.run(["diff", "-r", top, out],
                                                           check=False).returncode:
                    wrong.append("data")
            shutil.rmtree(out, ignore_errors=True)
        return wrong
    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(rounds, number) for number in range(4)]
        killed = set()
        while len(killed) < 6 and not all(reader.done() for reader in readers):
            helpers = engine.helpers()
            if len(helpers) == 1 and helpers[0] not in killed:
                try:
                    os.kill(process(engine), signal.SIGKILL)
                    killed.add(helpers[0])
                except (AssertionError, ProcessLookupError):
                    continue        # it is on its way in, or out
    assert [reader.result() for reader in readers] == [[]] * 4
    assert len(killed) > 1
    assert made.run("cp", made.now(name), scratch / "last").returncode == 0
    assert tree.tar_differences(scratch / "last", top) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ctrl_c_while_it_hangs(mount, engine, volume, filled, number):
    """Readers of one that hangs can be ended; what has another goes on.

    One reader a directory: libfuse 3.14 has the kernel look up one name at a time
    in each, and further ones wait for that uninterruptibly.
    """
    other = volume()
    tree.simple(engine.mountpoint(other))
    made = mount(None, "cache=60")
    run("ls", "-l", made.data(filled))
    keep_busy = start("sh", "-c", 'while dd if="$0" of=/dev/null iflag=direct; do :; done',
                      made.data(filled) / "data.bin")      # an idle one would be removed
    hung = process(engine)
    os.kill(hung, signal.SIGSTOP)
    readers = [start(*command) for command in (
        ("cat", made.data(filled) / "conf/app.conf"), ("ls", made.data(filled)),
        ("cat", made.now(filled)))]
    try:
        for reader in readers:
            wait_for(lambda reader=reader: waits(reader), "it waits")
        begin = time.monotonic()
        run("ls", made.path, made.volume(filled), made.data(other))
        assert look(made, other) == 1000
        assert time.monotonic() - begin < SOON
        assert all(reader.poll() is None for reader in readers)
        for reader in readers:
            begin = time.monotonic()
            reader.send_signal(number)
            reader.communicate(timeout=SOON)
            assert time.monotonic() - begin < 2 and reader.returncode != 0
    finally:
        os.kill(hung, signal.SIGCONT)
        for each in (*readers, keep_busy):
            each.kill()
            each.communicate()
    assert look(made, filled) == 1000


def test_an_engine_that_is_restarted(mount, private_engine):
    name = private_engine.volume()
    tree.simple(private_engine.mountpoint(name))
    made = mount(private_engine)
    look(made, name)
    private_engine.stop()
    run("ls", made.path, made.volume(name))
    private_engine.restart()
    def works():
        try:
            return look(made, name) == 1000 and whole(made.now(name))
        except OSError:
            return False
    wait_for(works, "it comes back", 30)
    tree.assert_same(private_engine.mountpoint(name), made.data(name), exact=True)
    assert made.access(name) == "agent" and len(private_engine.helpers()) == 1
    private_engine.wait_no_helpers()


@pytest.mark.parametrize("request_", ["POST */containers/create", "POST */images/create",
                                      "POST */attach", "POST */start", "DELETE /containers/*"])
def test_every_step_may_fail(mount, proxy, engine, filled, request_):
    """An error that is told, or none; never a hang, or an empty directory; then it works."""
    made = mount(proxy)
    proxy.on(request_, Status(500, "out of order"), times=2)
    try:
        assert sorted(os.listdir(made.data(filled))) == sorted(os.listdir(
            engine.mountpoint(filled)))
    except OSError:
        assert filled in made.log()
    proxy.clear()
    tree.assert_same(engine.mountpoint(filled), made.data(filled), exact=True)


@pytest.mark.access("agent-stream")
@pytest.mark.parametrize("after", [0, 5, 20, 30, 100, 4000, 50_000])
def test_a_stream_that_is_cut(mount, proxy, engine, filled, after):
    made = mount(proxy)
    proxy.on("POST */attach", Cut(after), times=1)
    try:
        expected = (engine.mountpoint(filled) / "data.bin").read_bytes()
        assert whole(made.data(filled) / "data.bin") == expected
    except OSError:
        pass
    proxy.clear()
    tree.assert_same(engine.mountpoint(filled), made.data(filled), exact=True)
    assert tree.tar_differences(made.now(filled), engine.mountpoint(filled)) == []


@pytest.mark.parametrize("where", ["POST */containers/create", "POST */start", "POST */attach"])
def test_ctrl_c_while_it_is_started(mount, proxy, engine, filled, where):
    made = mount(proxy)
    stall = proxy.on(where, Stall())
    reader = start("cat", made.data(filled) / "conf/app.conf")
    assert stall.reached.wait(20)
    begin = time.monotonic()
    reader.send_signal(signal.SIGINT)
    reader.communicate(timeout=SOON)
    assert time.monotonic() - begin < 2 and reader.returncode != 0
    proxy.clear()
    stall.release()
    assert look(made, filled) == 1000
    engine.wait_no_helpers()


# Much at once
def test_many_readers_of_two_volumes(mount, engine, volume, scratch):
    names = [volume() for _ in range(2)]
    contents = {}
    for name in names:
        for number in range(32):
            path = engine.mountpoint(name) / f"d{number % 4}" / f"f{number}"
            path.parent.mkdir(exist_ok=True)
            contents[name, number] = os.urandom(1 + number * number * 1000)
            path.write_bytes(contents[name, number])
        tree.whole_seconds(engine.mountpoint(name))
    made = mount()
    def cat(what):
        name, number = what
        path = made.data(name) / f"d{number % 4}" / f"f{number}"
        return run("cat", path).stdout == contents[what]
    def find(name):
        return len(run("find", made.data(name)).stdout.splitlines()) == 1 + 4 + 32
    def copy(number):
        target = scratch / f"{number}.tar"
        run("cp", made.now(names[number % 2]), target)
        return tree.tar_differences(target, engine.mountpoint(names[number % 2])) == []
    with ThreadPoolExecutor(72) as pool:
        done = [*(pool.submit(cat, what) for what in contents),
                *(pool.submit(find, name) for name in names * 2),
                *(pool.submit(copy, number) for number in range(4))]
        assert all(each.result() for each in done)
    assert len(engine.helpers()) <= 2


# What only it can do
@pytest.mark.parametrize("options", [{"type": "tmpfs", "device": "tmpfs", "o": "size=1m"},
                                     {"type": "none", "device": "DIRECTORY", "o": "bind"}],
                         ids=["tmpfs", "bind"])
@pytest.mark.parametrize("may_read_all", [False, True])
def test_volumes_with_options(mount, engine, volume, scratch, options, may_read_all):
    """As the engine mounts them for a container; what lies beneath is something else."""
    elsewhere = scratch / "elsewhere"
    tree.simple(elsewhere)
    options = {key: value.replace("DIRECTORY", str(elsewhere)) for key, value in options.items()}
    name = volume(DriverOpts=options)
    (engine.mountpoint(name) / "beneath").write_text("not to be seen")
    container = engine.start(name, script="echo inside > file; exec sleep 100000")
    made = mount(may_read_all=may_read_all)
    wait_for(lambda: (made.data(name) / "file").exists(), "the container's file is there")
    assert (made.data(name) / "file").read_text() == "inside\n"
    assert not (made.data(name) / "beneath").exists()
    if options["type"] == "none":
        tree.assert_same(elsewhere, made.data(name), exact=True)
    wait_for(lambda: not engine.helpers(), "it is gone", SOON)
    engine.remove_container(container)


@pytest.mark.access("agent")
def test_it_hands_its_directory_over(mount, engine, filled):
    """To root, who then needs it for nothing else."""
    made = mount(may_read_all=True)
    look(made, filled)
    agent = process(engine)
    os.kill(agent, signal.SIGSTOP)
    try:
        tree.assert_same(engine.mountpoint(filled), made.data(filled))
        assert whole(made.now(filled))
        assert process(engine) == agent
    finally:
        os.kill(agent, signal.SIGCONT)
    engine.wait_no_helpers(SOON)
    tree.assert_same(engine.mountpoint(filled), made.data(filled))


@pytest.mark.access("agent")
def test_a_directory_that_was_handed_over_goes_with_its_agent(mount, engine, volume):
    """What it was is not shown on when the volume has been mounted anew, though it is held."""
    name = volume(DriverOpts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
    first = engine.start(name, script="echo one > file; exec sleep 100000")
    made = mount(None, "cache=0", may_read_all=True)
    wait_for(lambda: (made.data(name) / "file").exists(), "the container's file is there")
    assert (made.data(name) / "file").read_text() == "one\n"
    with open(made.now(name), "rb") as held:
        assert held.read(512)
        engine.remove_container(first)
        engine.docker("rm", "-f", engine.helpers()[0])
        second = engine.start(name, script="echo two > file; exec sleep 100000")
        wait_for(lambda: text_of(made.data(name) / "file") == "two\n", "it is seen", SOON)
    engine.remove_container(second)


def text_of(path):
    """What is in a file, if anything."""
    try:
        return path.read_text()
    except OSError:
        return None


@pytest.mark.access("agent")
def test_not_of_another_machines_file_system(mount, engine, volume, filled):
    """Such a one may hang, and then only what can be done without: FUSE stands for all."""
    below = mount(None, "access=local")
    name = volume(DriverOpts={"type": "none", "o": "bind", "device": str(below.data(filled))})
    made = mount(may_read_all=True)
    assert look(made, name)
    agent = process(engine)
    os.kill(agent, signal.SIGSTOP)
    reader = start("cat", made.data(name) / "conf/app.conf")
    try:
        wait_for(lambda: waits(reader), "it waits")
        reader.terminate()
        reader.communicate(timeout=SOON)
    finally:
        os.kill(agent, signal.SIGCONT)


@pytest.mark.access("agent")
def test_an_ordinary_user(mount, namespace, engine, volume, scratch):
    """Who may use the engine sees all of the volume, as root sees it."""
    name = volume()
    top = engine.mountpoint(name)
    tree.faithful(top, trusted=False)
    tree.write(top / "secret", b"of root", 0o600)
    made = mount(user=mount.user(), namespace=namespace)
    assert made.access(name) == "agent"
    assert made.run("cat", made.data(name) / "secret").stdout == "of root"
    assert made.run("ls", made.data(name) / "modes/d0").returncode == 0

    code = made.home / "describe.py"
    shutil.copy(tree.__file__, made.home / "tree.py")
    code.write_text("import pickle, sys, tree\n"
                    "pickle.dump(tree.describe(sys.argv[1], exact=True), sys.stdout.buffer)\n")
    done = made.run("/usr/bin/python3", "-B", code, made.data(name), text=False, errors=None)
    assert done.returncode == 0, done.stderr
    tree.assert_same(tree.describe(top, exact=True), pickle.loads(done.stdout))

    out = scratch / "out"
    out.mkdir()
    archive = made.home / "x.tar"
    assert made.run("cp", made.now(name), archive).returncode == 0
    run("tar", "-C", out, "--numeric-owner", "--xattrs", "--acls", "--xattrs-include=*", "-xpf",
        archive)
    expected = tree.describe(top, exact=True)
    tree.assert_same({path: facts for path, facts in expected.items()
                      if facts["type"] != stat.S_IFSOCK}, tree.describe(out, exact=True))


@pytest.mark.access("auto", "agent")
def test_a_user_who_does_not_ask_for_the_size(mount, namespace, engine, filled):
    """busybox cat asks for nothing before it sends the file, sendfile(2)."""
    made = mount(user=mount.user(), namespace=namespace)
    sent = made.home / "sent.tar"
    assert made.run("sh", "-c", 'busybox cat "$1" >"$2"', "sh", made.now(filled),
                    sent).returncode == 0
    assert sent.read_bytes() == made.run("cat", made.now(filled), text=False, errors=None).stdout


@pytest.mark.access("agent")
def test_a_users_socket_is_in_his_own_directory(mount, namespace, engine, filled):
    made = mount(user=mount.user(), namespace=namespace)
    assert made.run("cat", made.data(filled) / "conf/app.conf").stdout == "port = 8080\n"
    directory = directory_of(engine.helper())
    assert directory.parent == made.home / "run"
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    made.umount()
    assert not directory.exists()
