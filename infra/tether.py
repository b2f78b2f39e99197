"""Ties a child process to its parent's life, then becomes the child. Run by path, isolated: it imports nothing of the project.

    python -I -S tether.py PARENT_PID COMMAND...

On Linux the kernel kills the child when the parent's *thread* that started it ends, however it ends; `kill -9` included. Elsewhere
this only checks that the parent is still there.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        # SIGKILL, because a child that is stopped (SIGSTOP) would sit on any other signal for ever.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)  # The parent died before the tie was made.
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
