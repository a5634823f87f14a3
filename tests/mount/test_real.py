"""The main job on what people have: many files, every kind of file, a database."""
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import tree
from harness.command import run


def round_trip(made, one, other, archive):
    """The main job: out with cp, in with cp."""
    run("cp", made.now(one), archive)
    run("cp", archive, made.restore(other))


def test_tens_of_thousands_of_files(mount, engine, volume, scratch):
    """And back in, once: that is done by the engine, whatever way they came out by."""
    one, other = volume(), volume()
    top = engine.mountpoint(one)
    run("sh", "-c", r'''
        cd /usr
        find share include lib -xdev \( -size -128k -o ! -type f \) -print0 2>/dev/null |
            head -z -n 20000 | tar --null --no-recursion -T - -c | tar -C "$0" -xp''', top)
    tree.whole_seconds(top)
    assert sum(len(files) for _, _, files in os.walk(top)) > 10_000
    made = mount()
    run("cp", made.now(one), scratch / "x.tar")
    assert tree.tar_differences(scratch / "x.tar", top) == []
    if made.access(one) == "local":
        run("zstd", "-q", "-1", "--rm", scratch / "x.tar", "-o", scratch / "x.tar.zst")
        run("cp", scratch / "x.tar.zst", made.restore(other))
        tree.assert_same(top, engine.mountpoint(other))


def test_every_kind_of_file_and_hostile_names(mount, engine, volume, scratch):
    one, other, third = volume(), volume(), volume()
    tree.everything(engine.mountpoint(one))
    tree.whole_seconds(engine.mountpoint(one))
    made = mount()
    round_trip(made, one, other, scratch / "x.tar")
    assert tree.tar_differences(scratch / "x.tar", engine.mountpoint(one)) == []
    tree.assert_same(engine.mountpoint(one), engine.mountpoint(other))
    # And as the user's own tar packs it.
    for number, form in enumerate(("gnu", "posix")):
        archive = tree.pack(engine.mountpoint(one), scratch / f"{form}.tar", f"--format={form}",
                            "--xattrs", "--xattrs-include=security.*")
        run("cp", archive, made.restore(third, f"{number}.tar"))
        tree.assert_same(engine.mountpoint(one), engine.mountpoint(third))


def test_one_big_file(mount, engine, volume, scratch):
    """Bigger than any buffer on the way."""
    one, other = volume(), volume()
    with open(engine.mountpoint(one) / "big", "wb") as file:
        for offset in range(0, 300 << 20, 50 << 20):
            file.seek(offset)
            file.write(os.urandom(100_000))
        file.truncate(300 << 20)
    made = mount()
    round_trip(made, one, other, scratch / "x.tar")
    run("cmp", engine.mountpoint(one) / "big", engine.mountpoint(other) / "big")


@pytest.fixture
def postgres(scratch):
    """postgres(program, ..., data): run a program of PostgreSQL's as its user."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"),
                      key=lambda path: float(path.parent.name))
    if not versions:
        pytest.skip("PostgreSQL is not installed")
    user = pwd.getpwnam("postgres")
    sockets = scratch / "pg"
    sockets.mkdir()
    os.chown(sockets, user.pw_uid, user.pw_gid)

    def run_as(program, *arguments, **options):
        environment = {**os.environ, "PGHOST": str(sockets), "PGUSER": "postgres",
                       "PGDATABASE": "postgres", "LC_ALL": "C.UTF-8"}
        # pg_ctl's server keeps the pipes open: its output goes to a file.
        with open(scratch / "pg.out", "w+", encoding="utf-8") as out:
            done = subprocess.run(
                ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid),
                 "--clear-groups", "--", versions[-1] / program, *map(str, arguments)],
                stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment, cwd="/",
                timeout=300, check=False)
            out.seek(0)
            text = out.read()
        assert done.returncode == 0, text
        return text

    run_as.sockets, run_as.user = sockets, user
    return run_as


def server(postgres, data, action):
    postgres("pg_ctl", "-D", data, "-w", "-t", "120", "-m", "fast", "-o",
             f"-k {postgres.sockets} -c listen_addresses='' -c fsync=off", "-l",
             postgres.sockets / "log", action)


def test_a_postgresql_cluster(mount, engine, volume, postgres, scratch):
    one, other = volume(), volume()
    # The postgres user must reach the volumes' directories, as in a container.
    before = {path: path.stat().st_mode & 0o7777 for name in (one, other)
              for path in engine.mountpoint(name).parents if path != Path("/")}
    for path, mode in before.items():
        path.chmod(mode | 0o011)
    try:
        data, restored = engine.mountpoint(one), engine.mountpoint(other)
        os.chown(data, postgres.user.pw_uid, postgres.user.pw_gid)
        data.chmod(0o700)
        postgres("initdb", "-D", data, "-A", "trust", "--no-sync", "--data-checksums")
        server(postgres, data, "start")
        postgres("pgbench", "-i", "-s", "3", "-q")
        postgres("pgbench", "-t", "50", "-c", "2")
        balance = postgres("psql", "-Atc", "select sum(abalance), count(*) from pgbench_accounts")
        server(postgres, data, "stop")

        made = mount()
        round_trip(made, one, other, scratch / "pg.tar")
        tree.assert_same(data, restored)
        shutil.rmtree(data, ignore_errors=True)     # only the restored one can answer

        server(postgres, restored, "start")
        try:
            assert balance == postgres("psql", "-Atc",
                                       "select sum(abalance), count(*) from pgbench_accounts")
            postgres("psql", "-c", "create extension amcheck")
            postgres("pg_amcheck", "--heapallindexed", "postgres")
            postgres("pgbench", "-t", "20")
        finally:
            server(postgres, restored, "stop")
        postgres("pg_checksums", "--check", "-D", restored)
    finally:
        for path, mode in before.items():
            if path.exists():
                path.chmod(mode)
