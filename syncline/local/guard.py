"""Runs a command that must not outlive whoever started it. A program of its own, not a module.

Its standard input is a pipe from its starter, which the system closes even when the starter is
killed: then, or on SIGTERM, the command is terminated, and killed if it is slow. Ends when the
command ends, with its exit status.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

TERMINATE_SECONDS = 5.0


def main() -> int:
    """Run `sys.argv[2:]`; its process id goes into the file `sys.argv[1]`."""
    child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, close_fds=False)
    with open(sys.argv[1], "w", encoding="ascii") as pid_file:
        pid_file.write(str(child.pid))
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())

    def wait_for(end: Callable[[], object]) -> None:
        end()
        over.set()

    # One thread waits for the pipe's end, one for the child's; the main one takes the signal.
    for end in (lambda: os.read(0, 1), child.wait):
        threading.Thread(target=wait_for, args=(end,), daemon=True).start()
    over.wait()
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(TERMINATE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
    code = child.wait()
    return code if code >= 0 else 128 - code  # as shells tell of a signal


if __name__ == "__main__":
    sys.exit(main())
