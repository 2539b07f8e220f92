"""Waits for what another process does."""

import time


def wait_for(condition, timeout_s=180):
    """Until the condition holds; fails after a time in which it must have."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
