"""Trees of files: describe one, compare two, make one that has everything."""
import errno
import hashlib
import os
import random
import socket
import stat
import struct
import subprocess

SECOND = 1_000_000_000


def content(name, fd):
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
    try:
        digest = hashlib.sha256()
        while block := os.read(handle, 1 << 20):
            digest.update(block)
        return digest.hexdigest()
    finally:
        os.close(handle)


def attributes(name, fd):
    """The extended attributes of any file, ACLs among them."""
    path = b"/proc/self/fd/%d/" % fd + name
    return {key: os.getxattr(path, key, follow_symlinks=False)
            for key in sorted(os.listxattr(path, follow_symlinks=False))
            if key != "security.selinux"}


def entry(name, fd, path, links, exact):
    """All that a backup should keep of one file, as a dict."""
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    facts = {
        "type": stat.S_IFMT(status.st_mode), "mode": oct(stat.S_IMODE(status.st_mode)),
        "owner": (status.st_uid, status.st_gid),
        "mtime": status.st_mtime_ns if exact else status.st_mtime_ns // SECOND,
    }
    if exact or stat.S_ISREG(status.st_mode):
        facts["xattrs"] = {key: value for key, value in attributes(name, fd).items()
                           if exact or key == "security.capability"}
    if stat.S_ISREG(status.st_mode):
        facts["size"] = status.st_size
        facts["content"] = content(name, fd)
    elif stat.S_ISLNK(status.st_mode):
        facts["target"] = os.readlink(name, dir_fd=fd)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        facts["device"] = status.st_rdev
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        links.setdefault((status.st_dev, status.st_ino), []).append(path)
    return facts


def describe(top, exact=False):
    """{relative path: facts} of a tree, b"." being its root.

    `exact` also counts nanoseconds and all extended attributes; without it only
    what the engine's archive keeps: whole seconds, security.capability, no sockets.
    """
    top = os.fsencode(os.fspath(top))
    tree, links = {}, {}
    for path, directories, files, fd in os.fwalk(top):
        below = os.path.relpath(path, top) if path != top else b"."
        if path == top:
            tree[b"."] = entry(b".", fd, b".", links, exact)
        for name in directories + files:
            relative = name if path == top else below + b"/" + name
            facts = entry(name, fd, relative, links, exact)
            if exact or facts["type"] != stat.S_IFSOCK:
                tree[relative] = facts
    for names in links.values():
        for name in names:
            tree[name]["links"] = sorted(names)
    return tree


def differences(one, other):
    """What differs between two trees that describe() told, a line each; [] if nothing."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            found.append(f"{shown(name)}: only in the {'other' if name not in one else 'one'}")
        else:
            a, b = one[name], other[name]
            found += [f"{shown(name)}: {key} {repr(a.get(key))[:500]} != {repr(b.get(key))[:500]}"
                      for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
    return found[:20]


def shown(name):
    return repr(name if len(name) < 120 else name[:60] + b"..." + name[-40:])


def assert_same(one, other, exact=False):
    """Two directories, or descriptions of such, are alike."""
    one, other = (tree if isinstance(tree, dict) else describe(tree, exact)
                  for tree in (one, other))
    found = differences(one, other)
    assert not found, "\n".join(found)


def whole_seconds(top):
    """Give everything below `top`, and it, a modification time in whole seconds."""
    moment = 1_700_000_000
    for _, directories, files, fd in os.fwalk(os.fsencode(os.fspath(top)), topdown=False):
        for name in files + directories:
            moment += 1
            os.utime(name, (moment, moment), dir_fd=fd, follow_symlinks=False)
        os.utime(fd, (moment, moment))


def write(path, data, mode=0o644):
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def simple(top):
    """A few files, as a volume of any service has them."""
    top = os.fsencode(os.fspath(top))
    os.makedirs(top + b"/conf/extra", exist_ok=True)
    write(top + b"/conf/app.conf", b"port = 8080\n", 0o640)
    write(top + b"/conf/extra/empty", b"")
    write(top + b"/data.bin", random.Random(1).randbytes(300_000))
    os.symlink(b"conf/app.conf", top + b"/app.conf")
    os.link(top + b"/data.bin", top + b"/data.link")
    os.chown(top + b"/conf/app.conf", 999, 998)
    os.chown(top, 999, 999)
    os.chmod(top, 0o750)
    return os.fsdecode(top)


NAMES = [b"with space", b" leading", b"trailing ", b"new\nline", b"tab\there", b"quo'te\"s",
         b"back\\slash", b"-rf", b"--", b"*", b"$(reboot)", b"%s%n", b"..hidden", b"...", b"~",
         "umläut".encode(), "日本語".encode(), "🎉".encode(), b"latin1-\xe9\xff", b"bell\a",
         b"n" * 99, b"n" * 100, b"n" * 101, b"n" * 154, b"n" * 255, ("ä" * 127).encode(),
         b"a=b", b"#x", b"x:y", b"PaxHeaders.0", b"@LongLink"]


def deep(top, levels, name):
    """Nested directories, made step by step: their path may be longer than one call takes."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    handle = os.open(b"bottom", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
    os.write(handle, b"deep down\n")
    os.close(handle)
    os.close(fd)


def everything(top):
    """A tree with every kind of file, and names to trip over."""
    top = os.fsencode(os.fspath(top))
    generator = random.Random(2)
    for directory in (b"names", b"sizes", b"links", b"modes", b"special", b"owners", b"empty"):
        os.makedirs(top + b"/" + directory)
    for number, name in enumerate(NAMES):
        write(top + b"/names/" + name, name * number)
        os.mkdir(top + b"/names/" + name[:250] + b".dir")
    deep(top + b"/names", 15, b"d" * 250)

    for size in (0, 1, 511, 512, 513, 1023, 1024, 10240, 65536, 1_000_001, 5_000_000):
        write(top + b"/sizes/%d" % size, generator.randbytes(size))
    with open(top + b"/sizes/sparse", "wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
        file.truncate(4_000_000)
    with open(top + b"/sizes/hole", "wb") as file:
        file.truncate(2_000_000)

    for number, target in enumerate([b"../sizes/1", b"/etc/passwd", b"nowhere", b".", b"..",
                                     b"t" * 100, b"t" * 101, b"/" + b"long/" * 200, b"a\nb",
                                     "ö".encode()]):
        os.symlink(target, top + b"/links/sym%d" % number)
    write(top + b"/links/hard", b"shared")
    os.link(top + b"/links/hard", top + b"/links/hard2")
    os.link(top + b"/links/hard", top + b"/special/hard3")
    os.link(top + b"/links/sym0", top + b"/links/symhard", follow_symlinks=False)

    for mode in (0o000, 0o400, 0o777, 0o4755, 0o2755, 0o1644, 0o6711):
        write(top + b"/modes/f%o" % mode, b"m", mode)
        os.mkdir(top + b"/modes/d%o" % mode)
        os.chmod(top + b"/modes/d%o" % mode, mode)
    for owner in ((0, 0), (1000, 100), (65534, 65534), (2_097_151, 1), (2_097_152, 3_000_000)):
        path = top + b"/owners/%d-%d" % owner
        write(path, b"o")
        os.chown(path, *owner)

    os.mkfifo(top + b"/special/fifo", 0o620)
    os.mknod(top + b"/special/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top + b"/special/disk", stat.S_IFBLK | 0o640, os.makedev(259, 70000))
    write(top + b"/special/capable", b"c", 0o755)
    # CAP_NET_BIND_SERVICE, permitted and effective: revision 2, as the engine writes it.
    os.setxattr(top + b"/special/capable", "security.capability",
                struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    os.chown(top, 70, 71)
    os.chmod(top, 0o1771)


def with_socket(top):
    """Add what the engine's archive leaves out: a socket, attributes, fractions of a second."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.join(os.fspath(top), "socket"))
    server.close()
    path = os.path.join(os.fspath(top), "attributed")
    write(path, b"x")
    os.setxattr(path, "user.note", b"hello")
    os.utime(path, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))


def scattered(path, runs, size):
    """A file of holes, with data at the offsets."""
    with open(path, "wb") as file:
        for offset in runs:
            file.seek(offset)
            file.write(b"data at %d" % offset)
        file.truncate(size)


def runs(path):
    """[(begin, end)] of the data of a file, by SEEK_DATA and SEEK_HOLE."""
    found, fd = [], os.open(path, os.O_RDONLY)
    try:
        end = 0
        while True:
            begin = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, begin, os.SEEK_HOLE)
            found.append((begin, end))
    except OSError as failure:
        assert failure.errno == errno.ENXIO
        return found
    finally:
        os.close(fd)


MOMENTS = {"before": -1_500_000_001, "long before": -2_000_000_000 * SECOND - 999_999_999,
           "epoch": 0, "first": 1, "fraction": 1_234_567_890_123_456_789,
           "last": 1_700_000_000_999_999_999, "2038": (1 << 31) * SECOND + 5,
           "2106": (1 << 32) * SECOND + 500_000_000}


def faithful(top, trusted=True):
    """As everything(), and what the engine's archive loses: attributes, ACLs, sockets, fractions
    of a second and times far away, holes.

    `trusted`: also the attributes that only root sees, and no container without CAP_SYS_ADMIN.
    """
    everything(top)
    top = os.fsencode(os.fspath(top))
    for directory in (b"acls", b"attributes", b"holes", b"times"):
        os.makedirs(top + b"/" + directory)
    os.mknod(top + b"/special/socket", stat.S_IFSOCK | 0o755)

    for name, acl in ((b"user", "u:1234:rwx"), (b"mask", "u:1234:rwx,g:4321:rw,m::r"),
                      (b"group", "g::-,g:4321:rx,m::rwx"), (b"huge id", "u:4000000000:r")):
        write(top + b"/acls/" + name, b"acl", 0o640)
        subprocess.run(["setfacl", "-m", acl, top + b"/acls/" + name], check=True)
    os.mkdir(top + b"/acls/default")
    subprocess.run(["setfacl", "-m", "u:1234:rwx,d:u:77:r-x,d:g::rw,d:m::rwx",
                    top + b"/acls/default"], check=True)
    write(top + b"/acls/default/inherits", b"acl")
    write(top + b"/acls/default/has none", b"acl")
    os.mkdir(top + b"/acls/default/below")
    write(top + b"/acls/default/below/has none", b"acl")
    subprocess.run(["setfacl", "-R", "-b", top + b"/acls/default/has none",
                    top + b"/acls/default/below"], check=True)

    write(top + b"/attributes/file", b"x" * 1000)
    os.mkdir(top + b"/attributes/directory")
    os.symlink(b"file", top + b"/attributes/link")
    os.mkfifo(top + b"/attributes/fifo")
    for name in (b"file", b"directory"):
        path = top + b"/attributes/" + name
        for key, value in ((b"user.note", b"hello"), (b"user.empty", b""),
                           (b"user.binary", bytes(range(255, -1, -1))), (b"user.z", b"v" * 2000),
                           ("user.ümlaut".encode(), b"n\n=\n"), (b"security.dvolfs", b"s"),
                           *([(b"trusted.dvolfs", b"t\0")] if trusted else [])):
            os.setxattr(path, key, value)
    for name in (b"link", b"fifo") if trusted else ():
        os.setxattr(top + b"/attributes/" + name, "trusted.dvolfs", b"t", follow_symlinks=False)
    os.link(top + b"/attributes/file", top + b"/acls/file of two names")

    scattered(top + b"/holes/first", (100_000,), 100_010)
    scattered(top + b"/holes/last", (0,), 1_000_000)
    scattered(top + b"/holes/many", range(5000, 9_000_000, 50_000), 9_000_001)
    scattered(top + b"/holes/all", (), 7_000_000)
    scattered(top + b"/holes/" + b"h" * 250, (0, 200_000), 300_000)
    os.link(top + b"/holes/many", top + b"/many of two names")

    for name, moment in MOMENTS.items():
        path = top + b"/times/" + name.encode()
        write(path, b"t")
        os.mkdir(path + b".dir")
        os.symlink(name, path + b".link")
        os.mkfifo(path + b".fifo")
        for end in (b"", b".dir", b".link", b".fifo"):
            os.utime(path + end, ns=(moment, moment), follow_symlinks=False)
    os.setxattr(top, "user.root", b"of the volume")
    subprocess.run(["setfacl", "-m", "u:1234:rx", top], check=True)
    os.utime(top, ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))


def pack(top, archive, *options):
    """tar up a directory as a user would; the archive."""
    subprocess.run(["tar", "-C", os.fspath(top), *options, "-cf", os.fspath(archive), "."],
                   check=True, stderr=subprocess.DEVNULL)
    return archive


def tar_differences(archive, top):
    """What `tar d` has to say of an archive against a directory."""
    done = subprocess.run(["tar", "-C", os.fspath(top), "-df", os.fspath(archive)], check=False,
                          capture_output=True, text=True, errors="replace")
    return (done.stdout + done.stderr).splitlines()
