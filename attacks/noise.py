"""Uses most of what a sandbox may use, by turns, beside a neighbour that measures: of 48 processes and 256 MiB."""

import mmap
import os
import signal
import sys
import time

# Short turns, so that the neighbour meets each of them whenever it begins.
SECONDS, ROUNDS = 0.7, 3
BLOCK = b"x" * (1 << 20)
# Processes of each kind: with PID 1, this program and what they start themselves, 44 to 48 are there.
PROCESSES = {"spin": 44, "fork": 22, "memory": 20, "disk": 44}
# In each of the twenty: 200 MiB.
AREA = 10 << 20


def spin():
    while True:
        pass


def fork():
    while True:
        try:
            child = os.fork()
        except BlockingIOError:
            continue
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)


def memory():
    while True:
        area = mmap.mmap(-1, AREA)
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


def turn(kind):
    children = []
    for _ in range(PROCESSES[kind.__name__]):
        child = os.fork()
        if child == 0:
            kind()
        children.append(child)
    time.sleep(SECONDS)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    for name in os.listdir("/workspace"):
        if name.startswith("noise-"):
            os.unlink("/workspace/" + name)


def main():
    for _ in range(ROUNDS):
        for kind in (spin, fork, memory, disk):
            turn(kind)
    sys.exit(0)


if __name__ == "__main__":
    main()
