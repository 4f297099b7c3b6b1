"""Attacks on what a machine has: processes, memory, disks, files, descriptors, time."""

import ctypes
import errno
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time

BLOCK = b"x" * (1 << 20)


def fork_limit():
    """Forks until it is refused."""
    children = []
    try:
        for _ in range(20000):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            children.append(child)
        return "unbounded"
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def thread_limit():
    stop = threading.Event()
    threads = []
    try:
        for _ in range(10000):
            thread = threading.Thread(target=stop.wait, daemon=True)
            thread.start()
            threads.append(thread)
        return "unbounded"
    except RuntimeError:
        return "EAGAIN"
    finally:
        stop.set()


def memory_anonymous():
    kept = []
    while len(kept) < 65536:
        kept.append(bytearray(BLOCK))
    return "unbounded"


def memory_shared():
    area = mmap.mmap(-1, 8 << 30)
    for at in range(0, 8 << 30, 4096):
        area[at] = 1
    return "unbounded"


def memory_memfd():
    file = os.memfd_create("a")
    for _ in range(8192):
        os.write(file, BLOCK)
    return "unbounded"


def memory_after():
    return "works" if subprocess.run(["/bin/true"]).returncode == 0 else "broken"


def number(path):
    try:
        return int(open(path).read().replace("max", "-1"))
    except OSError:
        return None


def swap_used():
    """What a program has in swap while it takes all memory, and what its sandbox might have there."""
    child = os.fork()
    if child == 0:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        memory_anonymous()
        os._exit(0)
    most = 0
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        lines = [line for line in open(f"/proc/{child}/status") if line.startswith("VmSwap")]
        most = max([most] + [int(line.split()[1]) for line in lines])
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return "the memory did not end"
    if most:
        return f"{most} kB in swap"
    memory, both = number("/sys/fs/cgroup/memory/memory.limit_in_bytes"), number("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
    if both not in (None, memory) or number("/sys/fs/cgroup/memory.swap.max") not in (None, 0):
        return "swap is allowed"
    return "none"


def fill(path, most=8 << 30, keep=False):
    try:
        with open(path, "wb", 0) as file:
            for _ in range(most >> 20):
                file.write(BLOCK)
        return "unbounded"
    finally:
        if not keep and os.path.exists(path):
            os.unlink(path)


def shm_fill(): return fill("/dev/shm/fill")
def tmp_fill():
    try:
        return fill("/tmp/fill", keep=True)
    finally:
        # A full disk must not keep programs from being started.
        subprocess.run(["/bin/true"], check=True)


def exec_on_full_tmp():
    found = "works" if subprocess.run(["/bin/sh", "-c", "true"]).returncode == 0 else "broken"
    os.unlink("/tmp/fill")
    return found


def tmp_inodes():
    for number in range(1 << 20):
        os.close(os.open(f"/tmp/i{number}", os.O_CREAT))
    return "unbounded"


def tmp_clean():
    subprocess.run("cd /tmp && ls -U | xargs rm -rf", shell=True, check=True)
    if os.listdir("/tmp"):
        return "some are left"
    for number in range(1000):
        os.close(os.open(f"/tmp/i{number}", os.O_CREAT))
    return "works"


def disk_fill():
    """Many files, since each of them is bounded by itself."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for number in range(64):
            try:
                fill(f"/workspace/fill{number}", 64 << 20, keep=True)
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
        return "unbounded"
    finally:
        for number in range(64):
            if os.path.exists(f"/workspace/fill{number}"):
                os.unlink(f"/workspace/fill{number}")


def disk_allocate():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for number in range(64):
        file = os.open(f"/workspace/allocate{number}", os.O_CREAT | os.O_RDWR)
        try:
            os.posix_fallocate(file, 0, 64 << 20)
        finally:
            os.close(file)
    return "unbounded"


def disk_clean():
    """There is room again, and it can be written to the disk."""
    subprocess.run("rm -f /workspace/fill* /workspace/allocate*", shell=True, check=True)
    with open("/workspace/fill", "wb", 0) as file:
        for _ in range(32):
            file.write(BLOCK)
        os.fsync(file.fileno())
    os.unlink("/workspace/fill")
    return "works"


def disk_sparse():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("/workspace/output/sparse", "wb") as file:
        file.truncate(20 << 30)
    return "made"


def disk_signal():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with open("/workspace/sparse", "wb") as file:
        os.ftruncate(file.fileno(), 20 << 30)
    return "made"


def disk_inodes():
    os.mkdir("/workspace/inodes")
    for number in range(400000):
        os.close(os.open(f"/workspace/inodes/{number}", os.O_CREAT))
    return "unbounded"


def root_write(): return fill("/usr/fill", 1 << 20)


def descriptors():
    kept = []
    while len(kept) < 1 << 20:
        kept.append(os.open("/dev/null", os.O_RDONLY))
    return "unbounded"


def pipes():
    kept = []
    while len(kept) < 1 << 20:
        kept.extend(os.pipe())
    return "unbounded"


def epolls():
    import select
    kept = []
    while len(kept) < 1 << 20:
        kept.append(select.epoll())
    return "unbounded"


def inotify():
    library = ctypes.CDLL(None, use_errno=True)
    for _ in range(1 << 17):
        if library.inotify_init() < 0:
            return errno.errorcode[ctypes.get_errno()]
    return "unbounded"


def raise_limits():
    resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
    return "raised"


def raise_core():
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
    return "raised"


def nice():
    os.nice(-10)
    return "raised"


def real_time():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    return "raised"


def processor_share():
    """Processor time that four spinning processes get in three seconds, as a share of one core."""
    began, before = time.monotonic(), os.times()
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            while time.monotonic() < began + 3:
                pass
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    share = used / (time.monotonic() - began)
    return "bounded" if share < 0.75 else f"share:{share:.2f}"


def zombies():
    """Orphans that end at once; PID 1 must take them away."""
    for _ in range(300):
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.waitpid(child, 0)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        states = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                states.append(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0])
            except OSError:
                continue
        if "Z" not in states:
            return "reaped"
        time.sleep(0.1)
    return "zombies:%d" % states.count("Z")


def huge_arguments(): return subprocess.run(["/bin/true", "x" * (1 << 18)]).returncode
def huge_environment(): return subprocess.run(["/bin/true"], env={f"A{i}": "x" * 100000 for i in range(60)}).returncode
def many_programs():
    for _ in range(1500):
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    return "works"


def deep_tree():
    here = os.open("/workspace/output", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f" * 255, os.O_CREAT, dir_fd=here))
    return "made"


def output_bomb():
    folder = os.open("/workspace/output", os.O_RDONLY)
    for number in range(60000):
        os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, dir_fd=folder))


def name_bomb():
    folder = os.open("/workspace/output", os.O_RDONLY)
    for number in range(20000):
        os.close(os.open(f"{number:05d}" + "n" * 245, os.O_CREAT | os.O_WRONLY, dir_fd=folder))


def sparse_outputs():
    """Below the bound on one file, above the bound on all that is kept."""
    for name, megabytes in (("huge", 2048), ("large-1", 400), ("large-2", 400), ("large-3", 400)):
        with open("/workspace/output/" + name, "wb") as file:
            file.truncate(megabytes << 20)


def memory_bomb():
    """As the phase's own program."""
    memory_anonymous()


def fork_bomb():
    """Every process makes two more, and starts again when it is refused."""
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)


def log_flood():
    line = b"\x1b[2J\x1b]0;owned\x07\xff\xfe" + b"y" * 4096
    while True:
        os.write(1, line)


def long_line():
    os.write(1, b"z" * (20 << 20))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
