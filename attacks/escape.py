"""Ways out of a sandbox: files of the machine, devices, mounts, namespaces, tracing, kernel interfaces."""

import ctypes
import errno
import os
import platform
import stat
import struct
import subprocess
import time

C = ctypes.CDLL(None, use_errno=True)
# Numbers of calls that are the same on both architectures are from the common table.
OWN = {"x86_64": {"ptrace": 101, "mount": 165, "unshare": 272, "setns": 308, "chroot": 161, "pivot_root": 155,
                  "keyctl": 250, "add_key": 248, "perf": 298, "bpf": 321, "userfaultfd": 323, "readv": 310,
                  "writev": 311, "kcmp": 312, "init_module": 175, "kexec": 246, "reboot": 169, "swapon": 167,
                  "settime": 227, "sethostname": 170, "handle_at": 304, "name_to_handle": 303, "modify_ldt": 154,
                  "fanotify": 300, "syslog": 103, "acct": 163, "quotactl": 179, "iopl": 172, "vmsplice": 278,
                  "memfd_secret": 447, "personality": 135, "umount": 166},
       "aarch64": {"ptrace": 117, "mount": 40, "unshare": 97, "setns": 268, "chroot": 51, "pivot_root": 41,
                   "keyctl": 219, "add_key": 217, "perf": 241, "bpf": 280, "userfaultfd": 282, "readv": 270,
                   "writev": 271, "kcmp": 272, "init_module": 105, "kexec": 104, "reboot": 142, "swapon": 224,
                   "settime": 112, "sethostname": 161, "handle_at": 265, "name_to_handle": 264, "modify_ldt": 9999,
                   "fanotify": 262, "syslog": 116, "acct": 89, "quotactl": 60, "iopl": 9999, "vmsplice": 75,
                   "memfd_secret": 447, "personality": 92, "umount": 39}}.get(platform.machine(), {})
COMMON = {"io_uring": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "clone3": 435,
          "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "process_mrelease": 448,
          "statmount": 457, "listmount": 458}
TEXT = ctypes.c_char_p


def call(name, *arguments):
    number = (OWN | COMMON)[name]
    result = C.syscall(ctypes.c_long(number), *arguments)
    return "worked" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    return "written"


def engine_socket():
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/crio/crio.sock"):
        if os.path.exists(path):
            return "found:" + path
    return "ENOENT"


def root_of_init(): return str(os.listdir("/proc/1/root")[:0] or "listed")
def cwd_of_init(): return os.readlink("/proc/1/cwd")
def files_of_init():
    """Their numbers may be seen by root; what they are, and they themselves, may not."""
    found = "EACCES"
    for number in os.listdir("/proc/1/fd"):
        for use in (os.readlink, lambda path: os.open(path, os.O_RDONLY)):
            try:
                return f"reached {number}: {use('/proc/1/fd/' + number)}"
            except OSError as error:
                found = errno.errorcode[error.errno]
    return found


def environment_of_init(): return str(len(open("/proc/1/environ").read()))
def memory_of_init(): return str(os.open("/proc/1/mem", os.O_RDWR))
def maps_of_init(): return str(len(open("/proc/1/maps").read()))
def init_binary():
    with open("/.swe-forge/init", "r+b"):
        return "opened"
def init_binary_read(): return "read:%d" % len(open("/.swe-forge/init", "rb").read())
def sysrq(): return write("/proc/sysrq-trigger", "h")
def kcore(): return "read:%d" % len(open("/proc/kcore", "rb").read(16))
def core_pattern(): return write("/proc/sys/kernel/core_pattern", "|/tmp/x")
def modprobe(): return write("/proc/sys/kernel/modprobe", "/tmp/x")
def host_name(): return write("/proc/sys/kernel/hostname", "x")
def uevent_helper(): return write("/sys/kernel/uevent_helper", "/tmp/x")
def kernel_log(): return "read:%d" % len(os.read(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK), 100))
def kernel_keys(): return "read:%d" % len(open("/proc/keys").read())
def timer_list(): return "read:%d" % len(open("/proc/timer_list").read())
def kernel_symbols():
    for line in open("/proc/kallsyms"):
        if int(line.split()[0], 16):
            return "found"
        return "zeros"
def scheduler(): return write("/proc/1/oom_score_adj", "1000")
def power_meter(): return str(os.listdir("/sys/devices/virtual/powercap"))
def firmware_tables(): return "read:%d" % len(open("/sys/firmware/dmi/tables/DMI", "rb").read())
def disks():
    for path in ("/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/loop0", "/dev/mem", "/dev/port", "/dev/fuse", "/dev/kvm"):
        if os.path.exists(path):
            return "found:" + path
    return "ENOENT"


def mknod_block(): return os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(254, 0)) or "made"
def mknod_char(): return os.mknod("/tmp/mem", 0o600 | stat.S_IFCHR, os.makedev(1, 1)) or "made"
def mount_tmpfs(): return call("mount", TEXT(b"none"), TEXT(b"/tmp"), TEXT(b"tmpfs"), 0, None)
def mount_proc(): return call("mount", TEXT(b"proc"), TEXT(b"/tmp"), TEXT(b"proc"), 0, None)
def remount_root(): return call("mount", TEXT(b"none"), TEXT(b"/"), None, ctypes.c_long(32), None)
def bind_mount(): return call("mount", TEXT(b"/"), TEXT(b"/tmp"), None, ctypes.c_long(4096), None)
def umount(): return call("umount", TEXT(b"/proc/kcore"), 2)
def new_mount_api(): return call("fsopen", TEXT(b"tmpfs"), 0)
def open_tree(): return call("open_tree", -100, TEXT(b"/"), 1)
def mount_setattr(): return call("mount_setattr", -100, TEXT(b"/"), 0, None, 0)
def unshare_user(): return call("unshare", ctypes.c_long(0x10000000))
def unshare_mount(): return call("unshare", ctypes.c_long(0x00020000))
def unshare_pid(): return call("unshare", ctypes.c_long(0x20000000))
def unshare_cgroup(): return call("unshare", ctypes.c_long(0x02000000))
def clone_user():
    number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
    result = C.syscall(ctypes.c_long(number), ctypes.c_long(0x10000000 | 17), None, None, None, None)
    if result == 0:
        os._exit(0)
    return "worked" if result > 0 else errno.errorcode[ctypes.get_errno()]
def clone3(): return call("clone3", ctypes.create_string_buffer(struct.pack("=Q", 0x10000000) + b"\0" * 80), 88)
def setns(): return call("setns", os.open("/proc/self/ns/mnt", os.O_RDONLY), 0)
def chroot(): return call("chroot", TEXT(b"/tmp"))
def pivot_root(): return call("pivot_root", TEXT(b"/tmp"), TEXT(b"/tmp"))
def handle_at(): return call("handle_at", -100, None, 0)
def name_to_handle(): return call("name_to_handle", -100, TEXT(b"/"), None, None, 0)


def setuid_binary():
    """A setuid program of the image, while it waits for a password: its effective user must not change."""
    for path in ("/usr/bin/su", "/bin/su"):
        if os.path.exists(path) and os.stat(path).st_mode & stat.S_ISUID:
            with subprocess.Popen([path, "-c", "true"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
                found = effective_user(child, path)
                child.kill()
            return found
    return "no setuid program"


def effective_user(child, path):
    """Who a program is once it runs: the exec is over when the kernel says its name."""
    while child.poll() is None:
        status = dict(line.split(":", 1) for line in open(f"/proc/{child.pid}/status").read().splitlines())
        if status["Name"].strip() == os.path.basename(path):
            return "gained" if status["Uid"].split()[1] == "0" else "no_gain"
        time.sleep(0.001)
    return "ended too early"


def setup_setuid():
    """A setuid program of root's, left by a setup that was root."""
    path = "/usr/local/bin/attack-id"
    if os.stat(path).st_uid != 0 or not os.stat(path).st_mode & stat.S_ISUID:
        return "no setuid program of root's"
    user = subprocess.run([path, "-u"], capture_output=True, text=True, timeout=60).stdout.strip()
    return "gained" if user == "0" else "no_gain" if user == str(os.getuid()) else f"user {user}"


def file_capability():
    with open("/workspace/capable", "w"):
        pass
    return os.setxattr("/workspace/capable", "security.capability", struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0)) or "set"
def setuid_root(): return os.setuid(0) or "worked"
def setgroups(): return os.setgroups([0]) or "worked"
def capabilities():
    for line in open("/proc/self/status"):
        if line.startswith(("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh")) and int(line.split()[1], 16):
            return line.strip()
    return "none"
def no_new_privileges():
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs"))
def seccomp_mode(): return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("Seccomp:"))
def root_file_system(): return write("/usr/bin/attack", "x")
def etc(): return write("/etc/passwd", "x")
def task_specification(): return write("/workspace/.swe-forge/task.json", "x")


def release_agent():
    for folder, _, files in os.walk("/sys/fs/cgroup"):
        if "release_agent" in files:
            return write(os.path.join(folder, "release_agent"), "/tmp/x")
    return "ENOENT"


def cgroup_limit():
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max"):
        if os.path.exists(path):
            return write(path, "max")
    return "ENOENT"


def cgroup_devices():
    path = "/sys/fs/cgroup/devices/devices.allow"
    return write(path, "a") if os.path.exists(path) else "ENOENT"


def cgroup_child(): return os.mkdir("/sys/fs/cgroup/attack") or "made"
def cgroup_child_v1(): return os.mkdir("/sys/fs/cgroup/memory/attack") or "made"


def ptrace_child():
    child = os.fork()
    if child == 0:
        os._exit(0 if call("ptrace", 0, 0, 0, 0) == "worked" else 1)
    return "worked" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 else "EPERM"
def ptrace_init(): return call("ptrace", 16, 1, 0, 0)
def process_readv(): return call("readv", 1, None, 0, None, 0, 0)
def process_writev(): return call("writev", 1, None, 0, None, 0, 0)
def kcmp(): return call("kcmp", 1, 1, 0, 0, 0)
def pidfd_getfd():
    # Of no process, so that it is this call that is refused: where it may be made it ends in EBADF.
    return call("pidfd_getfd", -1, 0, 0)
def process_madvise(): return call("process_madvise", 0, None, 0, 0, 0)
def keyctl(): return call("keyctl", 0, -3, 1)
def add_key(): return call("add_key", TEXT(b"user"), TEXT(b"a"), TEXT(b"b"), 1, -3)
def bpf(): return call("bpf", 0, None, 0)
def perf(): return call("perf", None, 0, -1, -1, 0)
def userfaultfd(): return call("userfaultfd", 0)
def io_uring(): return call("io_uring", 8, None)
def init_module(): return call("init_module", None, 0, TEXT(b""))
def kexec(): return call("kexec", 0, 0, None, 0)
def reboot(): return call("reboot", 0, 0, 0, None)
def swapon(): return call("swapon", TEXT(b"/tmp/x"), 0)
def clock(): return call("settime", 0, ctypes.create_string_buffer(struct.pack("=qq", 0, 0)))
def sethostname(): return call("sethostname", TEXT(b"x"), 1)
def fanotify(): return call("fanotify", 0, 0)
def syslog(): return call("syslog", 3, ctypes.create_string_buffer(100), 100)
def acct(): return call("acct", TEXT(b"/tmp/x"))
def quotactl(): return call("quotactl", 0, None, 0, None)
def iopl(): return call("iopl", 3)
def modify_ldt(): return call("modify_ldt", 0, None, 0)
def vmsplice(): return call("vmsplice", 1, None, 0, 0)
def memfd_secret(): return call("memfd_secret", 0)
def personality(): return call("personality", ctypes.c_long(0x0400000 | 0x0040000))
def process_mrelease(): return call("process_mrelease", 0, 0)
def statmount(): return call("statmount", None, None, 0, 0)
def core_dump():
    child = os.fork()
    if child == 0:
        os.abort()
    _, status = os.waitpid(child, 0)
    return "dumped" if os.WCOREDUMP(status) else "none"


def sandbox_secret():
    """The secret of the channel: in no environment and no argument that can be seen."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = open(f"/proc/{pid}/cmdline", "rb").read() + open(f"/proc/{pid}/environ", "rb").read()
        except OSError:
            continue
        if b"SECRET" in text.upper() or b"TOKEN" in text.upper():
            return "found in " + pid
    return "none"


def host_processes():
    """PID 1 is ours, and nobody of the machine is seen."""
    names = {open(f"/proc/{pid}/comm").read().strip() for pid in os.listdir("/proc") if pid.isdigit() and os.path.exists(f"/proc/{pid}/comm")}
    return "found" if names & {"dockerd", "containerd", "systemd", "swe-forge"} else "none"


def host_environment(): return "found" if "SWE_FORGE_ATTACK_SECRET" in os.environ else "none"


def setup_capabilities():
    """CHOWN, DAC_OVERRIDE, FOWNER, SETGID and SETUID, and none besides."""
    allowed = sum(1 << number for number in (0, 1, 3, 6, 7))
    for line in open("/proc/self/status"):
        if line.startswith(("CapEff", "CapPrm", "CapBnd")) and int(line.split()[1], 16) & ~allowed:
            return line.strip()
    return "five"
