"""Run as a script: becomes the program given as arguments, which then ends when the process that started it does.

The signal is one that `ollama serve` answers by ending its runner, which would outlive a kill. Knows nothing else of
the package, so that it starts in milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; execv keeps it

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - this is what the script is for
