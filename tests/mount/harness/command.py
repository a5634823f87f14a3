"""Running a user's commands."""
import subprocess

RUN_SECONDS = 600


def run(*command, **options):
    """Run a command that must succeed; the CompletedProcess, with its stdout as bytes."""
    options = {"check": True, "timeout": RUN_SECONDS, "stdout": subprocess.PIPE, **options}
    return subprocess.run([str(word) for word in command], **options)
