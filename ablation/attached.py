"""Becomes a command that ends with its parent, however the parent ends, `kill -9` included. Linux alone has this.

    python ablation/attached.py PARENT COMMAND [ARGUMENTS]

PARENT is the process id of the caller, whose calling thread must live as long as the command. The command then gets
SIGTERM.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of linux/prctl.h; `exec` keeps it


def main() -> None:
    parent, *command = sys.argv[1:]
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        print("attached.py: the system does not let the command end with its parent.", file=sys.stderr)
    if os.getppid() != int(parent):
        sys.exit(128 + signal.SIGTERM)  # the parent has ended before
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
