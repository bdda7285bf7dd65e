"""Compiles profiles with libseccomp, as runc does.

Reads one JSON object from each line, and prints one JSON value for each. If libseccomp rejects the profile,
the value is {"error": sentence}.
"""

import ctypes
import errno
import json
import sys
import tempfile

lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p


class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def check(ret, call):
    if ret < 0:
        raise RuntimeError(f"{call}: {ret}")


def number(arch, name):
    return lib.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(arch), name.encode())


def compiled(default, archs, rules):
    context = lib.seccomp_init(ctypes.c_uint32(default))
    if context is None:
        raise RuntimeError(f"seccomp_init rejects {default:#x}")
    context = ctypes.c_void_p(context)
    try:
        for arch in archs:
            if lib.seccomp_arch_exist(context, ctypes.c_uint32(arch)) != 0:
                check(lib.seccomp_arch_add(context, ctypes.c_uint32(arch)), "seccomp_arch_add")
        for names, action, args in rules:
            # libseccomp takes no rule that does what is done anyway.
            if action == default:
                continue
            args = (Comparison * len(args))(*(Comparison(*arg) for arg in args))
            for name in names:
                nr = lib.seccomp_syscall_resolve_name(name.encode())
                if nr != -1:
                    ret = lib.seccomp_rule_add_array(context, ctypes.c_uint32(action), nr, len(args), args)
                    if ret == -errno.EEXIST:
                        return None
                    check(ret, f"seccomp_rule_add_array {name} {action:#x}")
        with tempfile.TemporaryFile() as file:
            check(lib.seccomp_export_bpf(context, file.fileno()), "seccomp_export_bpf")
            file.seek(0)
            return file.read().hex()
    finally:
        lib.seccomp_release(context)


# Every action, whatever this kernel has.
check(lib.seccomp_api_set(5), "seccomp_api_set")
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    try:
        if "names" in request:
            answer = [number(request["arch"], name) for name in request["names"]]
        else:
            answer = compiled(request["default"], request["archs"], request["rules"])
    except RuntimeError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
