"""Attacks on what the kernel keeps for a program, on PID 1 from beside, and on everything below /proc and /sys that can be written."""

import ctypes
import errno
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import time

C = ctypes.CDLL(None, use_errno=True)
USAGE = "/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory.current"
CALLS = {"x86_64": {"sched_setattr": 314, "ioprio_set": 251, "process_vm_readv": 310, "process_vm_writev": 311, "move_pages": 279,
                    "migrate_pages": 256, "clock_settime": 227, "clock_adjtime": 305, "adjtimex": 159, "settimeofday": 164,
                    "setdomainname": 171, "delete_module": 176, "finit_module": 313, "kexec_file_load": 320, "ioperm": 173,
                    "vhangup": 153, "ptrace": 101, "swapoff": 168, "lookup_dcookie": 212, "set_mempolicy_home_node": 450,
                    "remap_file_pages": 216, "request_key": 249, "tee": 276, "rt_tgsigqueueinfo": 297, "rt_sigqueueinfo": 129, "kill": 62, "tkill": 200,
                    "tgkill": 234, "pidfd_send_signal": 424},
         "aarch64": {"sched_setattr": 274, "ioprio_set": 30, "process_vm_readv": 270, "process_vm_writev": 271, "move_pages": 239,
                     "migrate_pages": 238, "clock_settime": 112, "clock_adjtime": 266, "adjtimex": 171, "settimeofday": 170,
                     "setdomainname": 162, "delete_module": 106, "finit_module": 273, "kexec_file_load": 294, "ioperm": 9999,
                     "vhangup": 58, "ptrace": 117, "swapoff": 225, "lookup_dcookie": 18, "set_mempolicy_home_node": 450,
                     "remap_file_pages": 234, "request_key": 218, "tee": 77, "rt_tgsigqueueinfo": 240, "rt_sigqueueinfo": 138, "kill": 129, "tkill": 130,
                     "tgkill": 131, "pidfd_send_signal": 424}
         }.get(platform.machine(), {})


def code():
    return errno.errorcode.get(ctypes.get_errno(), "errno")


def call(name, *arguments):
    return "worked" if C.syscall(ctypes.c_long(CALLS[name]), *arguments) >= 0 else code()


def all_refused(attempts):
    outcomes = set()
    for name, attempt in attempts:
        try:
            found = attempt()
        except OSError as error:
            found = errno.errorcode.get(error.errno, str(error))
        except ValueError as error:
            found = "EPERM" if "not allowed" in str(error) else str(error)
        if found not in REFUSALS:
            return f"{found}: {name}"
        outcomes.add(found)
    return "refused" if outcomes else "nothing was tried"


REFUSALS = {"EPERM", "EACCES", "ENOSYS", "EROFS", "ENOENT", "ESRCH", "ENOTSUP"}


def used():
    for path in USAGE:
        if os.path.exists(path):
            return int(open(path).read())
    return 0


def counted(make, most, each, batch=1000):
    """Makes up to `most` of something that the kernel keeps; `charged` when it counts as memory of this sandbox."""
    before = used()
    for number in range(most):
        make(number)
        if number % batch == batch - 1 and used() - before > each * number and number > 20 * batch:
            return "charged"
    return "charged" if used() - before > each * most else f"not charged: {used() - before} bytes for {most}"


# What System V and POSIX keep.

def shared_segments():
    """Segments without end, none of them touched."""
    for _ in range(100000):
        if C.shmget(0, 4096, 0o1600) < 0:
            return code()
    return "unbounded"


def shared_memory():
    """Segments that are filled."""
    C.shmat.restype = ctypes.c_void_p
    for _ in range(256):
        segment = C.shmget(0, 64 << 20, 0o1600)
        if segment < 0:
            return code()
        at = C.shmat(segment, None, 0)
        if at in (None, ctypes.c_void_p(-1).value):
            return code()
        # Gone with the last process that has it.
        C.shmctl(segment, 0, None)
        ctypes.memset(at, 1, 64 << 20)
    return "unbounded"


# Neither goes with the process that made it, so that a test which ran into its bound of memory could not go on.
ENOUGH = 32 << 20


def message_queues():
    """Queues without end, each filled; `charged` when they count as memory of this sandbox."""
    message, before = struct.pack("l", 1) + b"x" * 8192, used()
    try:
        for _ in range(100000):
            queue = C.msgget(0, 0o1600)
            if queue < 0:
                return code()
            while C.msgsnd(queue, message, 8192, 0o4000) == 0:
                pass
            if used() - before > ENOUGH:
                return "charged"
        return "unbounded"
    finally:
        system_v_clean()


def semaphores():
    before = used()
    try:
        for _ in range(100000):
            if C.semget(0, 32000, 0o1600) < 0:
                return code()
            if used() - before > ENOUGH:
                return "charged"
        return "unbounded"
    finally:
        system_v_clean()


def posix_queues():
    library = C if hasattr(C, "mq_open") else ctypes.CDLL("librt.so.1", use_errno=True)
    for number in range(100000):
        if library.mq_open(b"/attack%d" % number, os.O_CREAT | os.O_RDWR, 0o600, None) < 0:
            return code()
    return "unbounded"


def posix_queues_clean():
    library = C if hasattr(C, "mq_open") else ctypes.CDLL("librt.so.1", use_errno=True)
    removed = sum(library.mq_unlink(b"/attack%d" % number) == 0 for number in range(1000))
    if removed == 0:
        return "nothing to remove"
    return "works" if library.mq_open(b"/attack0", os.O_CREAT | os.O_RDWR, 0o600, None) >= 0 else code()


def system_v_clean():
    """What System V keeps has nobody: it goes with the sandbox, and here at once."""
    for path, remove in (("shm", lambda number: C.shmctl(number, 0, None)), ("msg", lambda number: C.msgctl(number, 0, None)),
                         ("sem", lambda number: C.semctl(number, 0, 0))):
        for line in open("/proc/sysvipc/" + path).read().splitlines()[1:]:
            remove(int(line.split()[1]))
    left = [path for path in ("shm", "msg", "sem") if len(open("/proc/sysvipc/" + path).read().splitlines()) > 1]
    if left:
        return "left: " + ", ".join(left)
    segment = C.shmget(0, 4096, 0o1600)
    return "works" if segment >= 0 and C.shmctl(segment, 0, None) == 0 else code()


# What one process may have of the kernel.

def timers():
    timer = ctypes.c_void_p()
    # Each without a signal of its own.
    event = struct.pack("=Qii", 0, 0, 1) + b"\0" * 48
    for _ in range(1 << 20):
        if C.timer_create(1, event, ctypes.byref(timer)) != 0:
            return code()
    return "unbounded"


def queued_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
    for _ in range(1 << 20):
        if C.sigqueue(os.getpid(), int(signal.SIGRTMIN), None) != 0:
            return code()
    return "unbounded"


def memory_files():
    kept = []
    while len(kept) < 1 << 20:
        kept.append(os.memfd_create("a"))
    return "unbounded"


def event_files():
    kept = []
    while len(kept) < 1 << 20:
        kept.append(os.eventfd(0))
    return "unbounded"


def full_pipes():
    """Pipes, each as large as it may be and full; `charged` when they count as memory of this sandbox."""
    import fcntl
    kept, before = [], used()
    while len(kept) < 1 << 16:
        reader, writer = os.pipe()
        kept.append((reader, writer))
        try:
            fcntl.fcntl(writer, 1031, 1 << 20)
        except OSError:
            # Beyond what a user may have in pipes; the least one is always given.
            pass
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, b"x" * 65536)
        except BlockingIOError:
            pass
        if used() - before > ENOUGH:
            return "charged"
    return "unbounded"


def full_sockets():
    """Pairs of sockets, each full of data that nobody takes; `charged` as above."""
    kept, before = [], used()
    while len(kept) < 1 << 16:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        kept.append(pair)
        pair[0].setblocking(False)
        try:
            while True:
                pair[0].send(b"x" * 60000)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                raise
        if used() - before > ENOUGH:
            return "charged"
    return "unbounded"


def passed_descriptors():
    """Descriptors in flight: sent, closed, and never taken, so that they are in nobody's table."""
    kept = []
    for _ in range(2000):
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        kept.append(pair)
        pair[0].setblocking(False)
        try:
            while True:
                files = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
                try:
                    socket.send_fds(pair[0], [b"x"], files)
                finally:
                    for file in files:
                        os.close(file)
        except BlockingIOError:
            continue
    return "unbounded"


def watches():
    """Watches of one queue of file events: their number is the user's, and nobody else has this user."""
    queue = C.inotify_init()
    if queue < 0:
        return code()
    os.mkdir("/workspace/watched")
    def watch(number):
        path = b"/workspace/watched/%d" % number
        os.mkdir(path)
        if C.inotify_add_watch(queue, path, 0xFFF) < 0:
            raise OSError(ctypes.get_errno(), "watch")
    return counted(watch, 20000, 50)


def locked_memory():
    area = mmap.mmap(-1, 1 << 30)
    at = ctypes.addressof(ctypes.c_char.from_buffer(area))
    return "locked" if C.mlock(ctypes.c_void_p(at), ctypes.c_size_t(1 << 30)) == 0 else code()


def locked_everything():
    return "locked" if C.mlockall(7) == 0 and memory_after_lock() else code()


def memory_after_lock():
    mmap.mmap(-1, 1 << 30)
    return True


def huge_pages():
    area = C.mmap
    area.restype = ctypes.c_void_p
    found = area(None, ctypes.c_size_t(2 << 20), 3, 0x40022, -1, ctypes.c_long(0))
    return "mapped" if found not in (None, ctypes.c_void_p(-1).value) else code()


# Files.

def hard_links():
    os.mkdir("/workspace/links")
    with open("/workspace/links/first", "w"):
        pass
    for number in range(1 << 20):
        os.link("/workspace/links/first", f"/workspace/links/{number}")
    return "unbounded"


def attributes():
    with open("/workspace/attributes", "w"):
        pass
    for number in range(1 << 16):
        os.setxattr("/workspace/attributes", f"user.a{number}", b"x" * 1000)
    return "unbounded"


def attributes_of_others():
    """Attributes that mean something to the kernel."""
    with open("/workspace/marked", "w"):
        pass
    value = struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0)
    names = ("security.capability", "trusted.overlay.opaque", "trusted.attack", "system.attack")
    return all_refused((name, lambda: os.setxattr("/workspace/marked", name, value) or "set") for name in names)





def shm_files():
    """Files in memory without end; `charged` when they count as memory of this sandbox."""
    before = used()
    try:
        for number in range(1 << 21):
            os.close(os.open(f"/dev/shm/i{number}", os.O_CREAT))
            if number % 1000 == 0 and used() - before > ENOUGH:
                return "charged"
        return "unbounded"
    finally:
        for name in os.listdir("/dev/shm"):
            os.unlink("/dev/shm/" + name)


def long_path():
    """A path longer than any call takes, made by steps."""
    here = os.open("/workspace", os.O_RDONLY)
    for _ in range(40):
        os.mkdir("p" * 200, dir_fd=here)
        below = os.open("p" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.chdir("/")
    os.fchdir(here)
    return os.getcwd() and "read"


def immutable_file():
    import fcntl
    file = os.open("/workspace/immutable", os.O_CREAT | os.O_RDWR)
    fcntl.ioctl(file, 0x40086602, struct.pack("l", 0x10))
    return "set"


def device_nodes():
    kinds = [(0o060000, os.makedev(major, 0)) for major in (1, 7, 8, 43, 252, 253, 254, 259)]
    kinds += [(0o020000, os.makedev(*number)) for number in ((1, 1), (1, 2), (1, 4), (1, 11), (5, 1), (10, 200), (10, 229), (10, 232), (10, 237))]
    return all_refused((f"{kind:o} {os.major(number)}:{os.minor(number)}", lambda: os.mknod("/tmp/node", kind | 0o600, number) or "made")
                       for kind, number in kinds)


# What can be written of the kernel's own.

def opened(path):
    """Whether a file that somebody may write can be opened to be written. What has no writer at all is no hole."""
    try:
        if not os.lstat(path).st_mode & 0o222 or os.path.samefile(path, "/dev/null"):
            return False
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return False
    return True


def writable(roots):
    """The first file below `roots` that can be opened to be written. Nothing is written."""
    looked_at, until = 0, time.monotonic() + 10
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if not os.path.islink(os.path.join(folder, name))]
            for name in files:
                looked_at += 1
                if opened(os.path.join(folder, name)):
                    return "writable: " + os.path.join(folder, name)
            if time.monotonic() > until:
                break
    return "none" if looked_at else "nothing was there"


def kernel_settings(): return writable(["/proc/sys"])
def kernel_objects(): return writable(["/sys"])


def kernel_files():
    """Everything in /proc that is of no process; its pressure is a case of its own."""
    names = [name for name in os.listdir("/proc") if not name.isdigit() and name not in ("self", "thread-self", "sys", "pressure")]
    for name in names:
        if os.path.isfile("/proc/" + name) and not os.path.islink("/proc/" + name) and opened("/proc/" + name):
            return "writable: /proc/" + name
    return writable(["/proc/" + name for name in names if not os.path.islink("/proc/" + name)])


def pressure():
    """The kernel told to watch how long the machine's programs wait, for us."""
    for name in ("io", "memory", "cpu"):
        file = os.open("/proc/pressure/" + name, os.O_RDWR | os.O_NONBLOCK)
        os.write(file, b"some 200000 2000000\0")
    return "watched"


def files_of_init():
    """Everything of PID 1 that is written with something that it takes.

    Root may set how soon PID 1 is killed for want of memory and how it is scheduled: its own attempt pays.
    """
    settings = {"oom_score_adj", "oom_adj", "clear_refs", "coredump_filter", "timerslack_ns", "autogroup", "sched"}
    values = {"oom_score_adj": b"1000", "oom_adj": b"15", "comm": b"x", "clear_refs": b"1", "coredump_filter": b"0xff", "timerslack_ns": b"1000000000",
              "autogroup": b"19", "sched": b"0", "uid_map": b"0 0 1", "gid_map": b"0 0 1", "setgroups": b"deny", "loginuid": b"0",
              "timens_offsets": b"monotonic 1 0", "mem": b"x", "attr/current": b"x", "attr/exec": b"x", "make-it-fail": b"1", "fail-nth": b"1"}
    found = []
    for name, value in values.items():
        if os.getuid() == 0 and name in settings:
            continue
        for path in (f"/proc/1/{name}", f"/proc/1/task/1/{name}"):
            try:
                with open(path, "wb", 0) as file:
                    file.write(value)
                found.append(path)
            except OSError:
                continue
    return "written: " + ", ".join(found) if found else "none"


# PID 1 and other processes from beside.

def limits_of_init():
    """Every limit of PID 1 lowered to nothing."""
    limits = [number for number in range(16)]
    return all_refused((f"limit {number}", lambda: resource.prlimit(1, number, (0, 0)) and "changed") for number in limits)


def slow_init():
    """PID 1 made to get no processor."""
    return all_refused((("priority", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19) or "changed"),
                        ("class", lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)) or "changed"),
                        ("processors", lambda: os.sched_setaffinity(1, [0]) or "changed"),
                        ("attributes", lambda: call("sched_setattr", 1, struct.pack("=IIQiIQQQ", 48, 5, 0, 19, 0, 0, 0, 0), 0)),
                        ("disk", lambda: call("ioprio_set", 1, 1, 3 << 13))))


def moved_init():
    return all_refused((("pages", lambda: call("move_pages", 1, 0, None, None, None, 0)),
                        ("nodes", lambda: call("migrate_pages", 1, 1, struct.pack("=Q", 1), struct.pack("=Q", 1)))))


def memory_of_others():
    """Memory of PID 1 and of the parent, by every call for it."""
    local = ctypes.create_string_buffer(8)
    ours = struct.pack("=QQ", ctypes.addressof(local), 8)
    attempts = []
    for pid in (1, os.getppid()):
        attempts += [(f"{name} {pid}", lambda name=name, pid=pid: call(name, pid, ours, ctypes.c_long(1), ours, ctypes.c_long(1), 0))
                     for name in ("process_vm_readv", "process_vm_writev")]
        attempts += [(f"ptrace {kind:x} {pid}", lambda kind=kind, pid=pid: call("ptrace", ctypes.c_long(kind), ctypes.c_long(pid), None, None))
                     for kind in (16, 0x4206, 0x4207)]
    return all_refused(attempts)


def signals_to_init():
    """Every signal to PID 1, by every call that sends one, all of them whatever becomes of the first."""
    # From a queue: what says that it is from the kernel or from kill() is refused to everybody.
    information = ctypes.create_string_buffer(struct.pack("=iii", 0, 0, -1) + b"\0" * 116, 128)
    # A folder of /proc names its process, too.
    folder = os.open("/proc/1", os.O_RDONLY | os.O_DIRECTORY)
    for number in range(1, 65):
        call("kill", 1, number)
        call("tkill", 1, number)
        call("tgkill", 1, 1, number)
        call("rt_sigqueueinfo", 1, number, information)
        call("rt_tgsigqueueinfo", 1, 1, number, information)
        call("pidfd_send_signal", folder, number, None, 0)
    with open("/proc/1/stat") as file:
        state = file.read().rsplit(")", 1)[1].split()[0]
    # Without PID 1 nobody is left who could say anything.
    return "alive" if state in "RSD" else "state:" + state


def handle_of_init():
    """A handle of PID 1, by which signals are sent and open files are taken."""
    os.pidfd_open(1)
    return "opened"


# What only an administrator of the machine may.

def better_class():
    """A deadline class, the round-robin class, a better priority, a class of the disk."""
    deadline = struct.pack("=IIQiIQQQ", 48, 6, 0, 0, 0, 10_000_000, 30_000_000, 30_000_000)
    return all_refused((("deadline", lambda: call("sched_setattr", 0, deadline, 0)),
                        ("round robin", lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)) or "raised"),
                        ("fifo", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) or "raised"),
                        ("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5) or "raised"),
                        ("disk", lambda: call("ioprio_set", 1, 0, 1 << 13))))


def higher_limits():
    """Every limit raised by one above its bound, where it has one."""
    def higher(number):
        _, hard = resource.getrlimit(number)
        if hard == resource.RLIM_INFINITY:
            return "ENOENT"
        resource.setrlimit(number, (hard + 1, hard + 1))
        return "raised"
    return all_refused((f"limit {number}", lambda: higher(number)) for number in range(16))


def clocks():
    now = struct.pack("=qq", 0, 0)
    changes = ctypes.create_string_buffer(struct.pack("=I", 0x2001) + b"\0" * 204, 208)
    return all_refused((("real time", lambda: call("clock_settime", 0, now)), ("international", lambda: call("clock_settime", 11, now)),
                        ("day", lambda: call("settimeofday", now, None)), ("adjusted", lambda: call("clock_adjtime", 0, changes)),
                        ("adjusted, old call", lambda: call("adjtimex", changes))))


def machine_calls():
    file = os.open("/dev/null", os.O_RDONLY)
    return all_refused((("domain", lambda: call("setdomainname", b"x", 1)), ("module out", lambda: call("delete_module", b"x", 0)),
                        ("module in", lambda: call("finit_module", file, b"", 0)), ("kernel", lambda: call("kexec_file_load", file, file, 0, b"", 0)),
                        ("ports", lambda: call("ioperm", 0, 1, 1)), ("terminal", lambda: call("vhangup")),
                        ("swap", lambda: call("swapoff", b"/x")), ("path of a cookie", lambda: call("lookup_dcookie", 0, None, 0)),
                        ("keys", lambda: call("request_key", b"user", b"a", b"b", 0)),
                        ("pages of a file", lambda: call("remap_file_pages", None, 0, 0, 0, 0)), ("pipe to pipe", lambda: call("tee", 0, 0, 0, 0))))


def terminal_input():
    """Input put into a terminal of somebody else's."""
    import fcntl
    found = "ENOTTY"
    for path in ("/dev/tty", "/dev/console", "/dev/pts/0", "/dev/tty0", "/dev/tty1", "/proc/self/fd/0"):
        try:
            file = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            fcntl.ioctl(file, 0x5412, b"x")
            return "put into " + path
        except OSError:
            continue
    return found
