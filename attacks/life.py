"""Programs that do not want to end, or leave something behind."""

import os
import signal
import sys
import time

BEAT = "/workspace/beat"


def ignore_end():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)


def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)


def daemon(beats=True):
    """A process in a session of its own, with nothing open, whose parent is gone."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in range(3) if beats else ():
        os.close(number)
    while True:
        with open(BEAT, "a") as file:
            file.write("x")
        time.sleep(0.05)


def holder():
    """A child that keeps the output open."""
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)


def silent():
    """Fails when the daemon still lives: neither its beat nor any other process may be there."""
    before = os.path.getsize(BEAT) if os.path.exists(BEAT) else -1
    time.sleep(0.6)
    after = os.path.getsize(BEAT) if os.path.exists(BEAT) else -1
    sys.exit(0 if 0 < before == after else 1)


def alone():
    others = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid(), os.getppid())]
    sys.exit(1 if others else 0)


def kill_everything():
    """Everything that may be killed, PID 1 included, and then still there to say so."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        try:
            os.kill(1, number)
        except OSError:
            pass
    time.sleep(0.5)


def wait_for_ever():
    """Says that it is there, for whoever pauses it."""
    print("here", flush=True)
    while True:
        time.sleep(1)


def stop_everything():
    """Stops itself last, and whoever wakes it finds the next that does."""
    for _ in range(3):
        if os.fork() == 0:
            break
    while True:
        for pid in [1] + [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            if pid != os.getpid():
                try:
                    os.kill(pid, signal.SIGSTOP)
                except OSError:
                    continue
        os.kill(os.getpid(), signal.SIGSTOP)


def kill_group():
    os.kill(-1, signal.SIGKILL)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
