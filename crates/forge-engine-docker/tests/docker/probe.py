# Makes each of the system calls that it is given and prints how the kernel answered.
import ctypes
import errno
import json
import sys

libc = ctypes.CDLL(None, use_errno=True)
answers = {}
for name, number, arguments in json.loads(sys.argv[1]):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if result == 0 and name.startswith("clone"):
        libc._exit(0)
    answers[name] = "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]
print(json.dumps(answers))
