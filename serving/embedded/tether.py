"""Runs a program that dies with the process that started it: `python tether.py PARENT_PID PROGRAM ARGUMENT…`.

Asks the kernel for SIGTERM when the parent is gone, then becomes the program. Imports nothing of Darkroom: it starts
with -I -S, before any package is in sight.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent_pid, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the kernel knew of our wish.
    if os.getppid() != parent_pid:
        sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
