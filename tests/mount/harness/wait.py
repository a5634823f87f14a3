"""Waiting for a condition, never for a time."""
import time


def wait_for(condition, what, seconds=10):
    """Poll until condition() is true and return its value; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return result
