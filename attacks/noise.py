"""Uses everything that a sandbox may use, one thing after the other, beside a neighbour that measures."""

import mmap
import os
import signal
import sys
import time

SECONDS = 4
BLOCK = b"x" * (1 << 20)


def spin():
    while True:
        pass


def fork():
    while True:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)


def memory():
    while True:
        area = mmap.mmap(-1, 4 << 20)
        for page in range(0, len(area), 4096):
            area[page] = 1
        area.close()


def disk():
    path = f"/workspace/noise-{os.getpid()}"
    while True:
        with open(path, "wb") as out:
            for _ in range(4):
                out.write(BLOCK)
            out.flush()
            os.fsync(out.fileno())
        os.unlink(path)


def main():
    for kind in (spin, fork, memory, disk):
        children = []
        for _ in range(16):
            child = os.fork()
            if child == 0:
                kind()
            children.append(child)
        time.sleep(SECONDS)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    sys.exit(0)


if __name__ == "__main__":
    main()
