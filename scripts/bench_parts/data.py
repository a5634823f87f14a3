"""The data sets, and what is in a tree or an archive."""
import contextlib
import dataclasses
import gzip
import hashlib
import os
import random
import shutil
import stat
import subprocess
import tarfile

from .base import MIB


# ---- the data sets -----------------------------------------------------------------------

def many_small(directory, options):
    """A copy of /usr/share, as much of it as is wanted."""
    files_left, bytes_left = (500, 8 * MIB) if options.quick else \
        (int(57_000 * options.scale), int(800 * MIB * options.scale))
    for path, names, files in os.walk("/usr/share"):
        names.sort()
        below = directory / os.path.relpath(path, "/usr/share")
        below.mkdir(exist_ok=True)
        directories = [name for name in names if os.path.islink(os.path.join(path, name))]
        for name in sorted(files + directories):
            source = os.path.join(path, name)
            status = os.lstat(source)
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                continue
            if files_left == 0:
                return
            if status.st_size > bytes_left:
                continue
            files_left -= 1
            bytes_left -= status.st_size
            shutil.copy2(source, below / name, follow_symlinks=False)
            os.chown(below / name, status.st_uid, status.st_gid, follow_symlinks=False)


def big_file(path, mebibytes, generator):
    """Like one of a database: hard to compress, with some text in between."""
    text = b"0123456789abcdef" * (MIB // 128)      # an eighth of each block
    with open(path, "wb") as file:
        for _ in range(mebibytes):
            file.write(generator.randbytes(MIB - len(text)) + text)


def few_big(directory, options):
    count, size = (2, 16) if options.quick else (4, int(512 * options.scale))
    generator = random.Random(1)
    for number in range(count):
        big_file(directory / f"segment-{number}", size, generator)


def one_big(directory, options):
    big_file(directory / "segment", 32 if options.quick else int(4096 * options.scale),
             random.Random(2))


def many_big(directory, options):
    """160 of 64 MiB, or of less, and a small one after each."""
    count, size = (16, 2) if options.quick else (160, max(2, int(64 * options.scale)))
    generator = random.Random(3)
    for number in range(count):
        big_file(directory / f"part-{number:03}", size, generator)
        (directory / f"part-{number:03}.txt").write_text(
            "".join(f"{number} {generator.random()}\n" for _ in range(400)))


SMALL = ("many small files", many_small)
BIG = ("few big files", few_big)


def change(directory, number):
    """Give 1 % of the files other bytes; another one for each number. {name: its sha256}"""
    files = sorted(os.path.join(path, name) for path, _, names in os.walk(directory)
                   for name in names)
    files = [file for file in files if not os.path.islink(file) and os.path.getsize(file) > 0]
    # As easy or hard to compress as they were.
    other = bytes(byte ^ (1 + number % 255) for byte in range(256))
    changed = {}
    for path in files[number % 100::100]:
        with open(path, "rb") as file:
            data = file.read().translate(other)
        with open(path, "wb") as file:
            file.write(data)
        changed["./" + os.path.relpath(path, directory)] = hashlib.sha256(data).digest()
    return changed


# ---- what is in a tree, and in an archive ---------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Census:
    members: int            # the root among them
    files: int              # regular, each name of one that has several
    bytes: int              # of contents, those of hard links once


def census_of_tree(top):
    members, files, size, seen = 1, 0, 0, set()
    for path, directories, names, fd in os.fwalk(top):
        members += len(directories) + len(names)
        for name in names:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                files += 1
                if status.st_nlink == 1 or status.st_ino not in seen:
                    seen.add(status.st_ino)
                    size += status.st_size
    return Census(members, files, size)


@contextlib.contextmanager
def unpacked(path):
    """The tar in a file, as a stream."""
    if path.suffix == ".zst":
        with subprocess.Popen(["zstd", "-dcq", path], stdout=subprocess.PIPE) as process:
            yield process.stdout
            while process.stdout.read(MIB):
                pass            # to the end, or zstd would not see all of it
        if process.returncode != 0:
            raise OSError(f"zstd: exit status {process.returncode}")
        return
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        yield file


def census_of_archive(path, contents=None):
    """
    Raises OSError, EOFError or tarfile.TarError for one that is not whole, or where one of
    `contents` ({name: sha256}) is not in it.
    """
    members, files, size, left = 0, 0, 0, dict(contents or {})
    with unpacked(path) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            tar.members = []        # or it keeps them all
            members += 1
            files += member.isreg() or member.islnk()
            size += member.size if member.isreg() else 0
            if member.name in left and \
               hashlib.sha256(tar.extractfile(member).read()).digest() == left[member.name]:
                del left[member.name]
    if left:
        raise tarfile.TarError(f"not as it is in the volume: {len(left)} files, {min(left)}")
    return Census(members, files, size)


def complaint(found, wanted):
    """What is wrong with a result; None if it is complete."""
    if found == wanted:
        return None
    parts = [f"{getattr(found, field):,} of {getattr(wanted, field):,} {field}"
             for field in ("members", "files", "bytes")
             if getattr(found, field) != getattr(wanted, field)]
    return "not complete: " + ", ".join(parts)


def complaint_of_archive(path, wanted, contents=None):
    try:
        return complaint(census_of_archive(path, contents), wanted)
    except (OSError, EOFError, tarfile.TarError) as error:
        return f"not an archive: {error}"
