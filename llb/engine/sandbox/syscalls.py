"""System calls that an engine needs, with their numbers on x86_64 and aarch64 (None: not there).

Any other call fails with ENOSYS, which the C library and drivers take for an older kernel. `clone3` is left
out so that threads are started with `clone`, whose flags a filter can read.
"""

from __future__ import annotations

from collections.abc import Mapping

Numbers = Mapping[str, tuple[int, int | None]]

# Memory, threads, time, files that are opened for reading, and sockets that exist.
SERVING: Numbers = {
    "futex": (202, 98), "read": (0, 63), "write": (1, 64), "poll": (7, None), "ppoll": (271, 73),
    "recvfrom": (45, 207), "sendto": (44, 206), "recvmsg": (47, 212), "sendmsg": (46, 211),
    "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "preadv": (295, 69), "preadv2": (327, 286),
    "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None),
    "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59), "fcntl": (72, 25), "ioctl": (16, 29),
    "open": (2, None), "openat": (257, 56), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78), "getdents": (78, None),
    "getdents64": (217, 61), "getcwd": (79, 17), "statfs": (137, 43), "fstatfs": (138, 44),
    "fadvise64": (221, 223), "readahead": (187, 213), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233), "msync": (26, 227),
    "mincore": (27, 232), "brk": (12, 214), "mlock": (149, 228), "mlock2": (325, 284),
    "munlock": (150, 229), "mbind": (237, 235), "set_mempolicy": (238, 237), "get_mempolicy": (239, 236),
    "accept": (43, 202), "accept4": (288, 242), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209), "setsockopt": (54, 208), "shutdown": (48, 210), "select": (23, None),
    "pselect6": (270, 72), "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441), "eventfd2": (290, 19),
    "clone": (56, 220), "set_tid_address": (218, 96), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "rseq": (334, 293), "membarrier": (324, 283), "exit": (60, 93),
    "exit_group": (231, 94), "arch_prctl": (158, None), "prctl": (157, 167), "gettid": (186, 178),
    "getpid": (39, 172), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156),
    "tgkill": (234, 131), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "pause": (34, None), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "getpriority": (140, 141),
    "getcpu": (309, 168), "getrlimit": (97, 163), "prlimit64": (302, 261), "getrusage": (98, 165),
    "times": (100, 153), "sysinfo": (99, 179), "uname": (63, 160), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "getrandom": (318, 278), "futex_waitv": (449, 449),
    "futex_wake": (454, 454), "futex_wait": (455, 455), "futex_requeue": (456, 456), "wait4": (61, 260),
    "waitid": (247, 95), "capget": (125, 90),
}  # fmt: skip

# Allowed in addition until the server listens and the second filter is set.
LOADING: Numbers = {
    "seccomp": (317, 277), "socket": (41, 198), "bind": (49, 200), "listen": (50, 201),
    "setresuid": (117, 147),
}  # fmt: skip

# Allowed in addition for drivers of GPUs: shader caches, events, anonymous files.
GPU: Numbers = {
    "memfd_create": (319, 279), "ftruncate": (77, 46), "fallocate": (285, 47), "pwrite64": (18, 68),
    "pwritev": (296, 70), "pwritev2": (328, 287), "unlink": (87, None), "unlinkat": (263, 35),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None),
    "mkdirat": (258, 34), "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83),
    "socketpair": (53, 199), "eventfd": (284, None), "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27), "inotify_rm_watch": (255, 28), "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87), "timer_create": (222, 107),
    "timer_settime": (223, 110), "timer_gettime": (224, 108), "timer_delete": (226, 111),
    "signalfd4": (289, 74), "sched_setaffinity": (203, 122), "mlockall": (151, 230),
    "munlockall": (152, 231), "pkey_alloc": (330, 289), "pkey_free": (331, 290),
    "pkey_mprotect": (329, 288), "umask": (95, 166), "sync_file_range": (277, 84),
}  # fmt: skip

# Drivers ask their daemons while they start.
GPU_LOADING: Numbers = {
    "connect": (42, 203),
}  # fmt: skip
