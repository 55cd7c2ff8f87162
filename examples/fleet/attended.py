"""``python attended.py PROGRAM.py``: the program, which ends when its input does, and so with whoever started it."""

import os
import runpy
import signal
import sys
from threading import Thread


def end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    Thread(target=end_with_input, daemon=True).start()
    runpy.run_path(sys.argv[1], run_name="__main__")
