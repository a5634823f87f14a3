"""What all parts of the bench use."""
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
BINARY = TOP / "build" / "fs" / "mount.dvolfs"
MIB = 1 << 20


class Failure(SystemExit):
    """Ends the bench, or the row in whose run it comes about."""


def die(message):
    raise Failure(f"bench: {message}")


def progress(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def run(*command, **options):
    """Run a command; its output as text. Ends the bench if it fails."""
    done = subprocess.run([str(word) for word in command], check=False, stderr=subprocess.PIPE,
                          **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **options})
    if done.returncode != 0:
        die(f"{command[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return (done.stdout or b"").decode(errors="replace").strip()


def wait_for(condition, what, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            die(f"waited in vain: {what}")
        time.sleep(0.02)
