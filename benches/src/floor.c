/* The baseline in C: starts a container with the fewest system calls, and starts a process in new
 * namespaces without any other setup. c.rs is the Rust interface.
 *
 * Every function returns 0 or more, or a negated errno. A child that fails ends with exit code 126,
 * or 127 if the program cannot be executed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

/* The container. c.rs has the same layout. */
struct floor {
    const char *root;         /* directory that becomes the root */
    const char *program;      /* path within the root */
    const char *argument;     /* of the program, or NULL */
    const char *const *extra; /* directories relative to the root, each for a tmpfs; ends with NULL */
};

static const struct { const char *path; unsigned int major, minor; } NODES[] = {
    { "dev/null", 1, 3 }, { "dev/zero", 1, 5 },    { "dev/full", 1, 7 },
    { "dev/random", 1, 8 }, { "dev/urandom", 1, 9 }, { "dev/tty", 5, 0 },
};

static const struct { const char *target, *path; } LINKS[] = {
    { "/proc/self/fd", "dev/fd" },       { "/proc/self/fd/0", "dev/stdin" },
    { "/proc/self/fd/1", "dev/stdout" }, { "/proc/self/fd/2", "dev/stderr" },
    { "pts/ptmx", "dev/ptmx" },
};

static const unsigned long PLAIN = MS_NOSUID | MS_NODEV | MS_NOEXEC;

/* The mounts under /dev and /sys, in order. If mode is not 0, the directory is created. */
static const struct { const char *path, *type, *data; unsigned long flags; mode_t mode; } MOUNTS[] = {
    { "dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620", MS_NOSUID | MS_NOEXEC, 0755 },
    { "dev/shm", "tmpfs", "mode=1777,size=65536k", MS_NOSUID | MS_NODEV | MS_NOEXEC, 01777 },
    { "dev/mqueue", "mqueue", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0755 },
    { "sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, 0 },
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void must(long result)
{
    if (result < 0)
        _exit(126);
}

static _Noreturn void run(const char *program, const char *argument)
{
    char *argv[] = { (char *)program, (char *)argument, NULL };
    execv(program, argv);
    _exit(127);
}

static _Noreturn void contained(const struct floor *f)
{
    must(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL));
    must(mount(f->root, f->root, NULL, MS_BIND | MS_REC, NULL));
    must(chdir(f->root));
    must(mount("proc", "proc", "proc", PLAIN, NULL));
    must(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    umask(0);
    for (unsigned i = 0; i < COUNT(NODES); i++)
        must(mknod(NODES[i].path, S_IFCHR | 0666, makedev(NODES[i].major, NODES[i].minor)));
    for (unsigned i = 0; i < COUNT(MOUNTS); i++) {
        if (MOUNTS[i].mode)
            must(mkdir(MOUNTS[i].path, MOUNTS[i].mode));
        must(mount(MOUNTS[i].type, MOUNTS[i].path, MOUNTS[i].type, MOUNTS[i].flags, MOUNTS[i].data));
    }
    for (unsigned i = 0; i < COUNT(LINKS); i++)
        must(symlink(LINKS[i].target, LINKS[i].path));
    for (const char *const *path = f->extra; *path; path++)
        must(mount("tmpfs", *path, "tmpfs", MS_NOSUID | MS_NODEV, NULL));
    must(syscall(SYS_pivot_root, ".", "."));
    must(umount2(".", MNT_DETACH));
    must(chdir("/"));
    must(sethostname("c", 1));
    run(f->program, f->argument);
}

/* Creates a cgroup at this path and starts a container in it. Returns the pid. The caller waits for
 * the pid and removes the cgroup. */
int nspod_floor_start(const struct floor *f, const char *cgroup)
{
    if (mkdir(cgroup, 0755) < 0)
        return -errno;
    int error = 0, pidfd = -1, directory = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    long pid = -1;
    if (directory >= 0) {
        struct clone_args args = {
            .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET |
                     CLONE_PIDFD | CLONE_INTO_CGROUP,
            .pidfd = (uintptr_t)&pidfd,
            .exit_signal = SIGCHLD,
            .cgroup = (unsigned)directory,
        };
        pid = syscall(SYS_clone3, &args, sizeof args);
        if (pid == 0)
            contained(f);
    }
    if (pid < 0) {
        error = errno;
        rmdir(cgroup);
    }
    if (pidfd >= 0)
        close(pidfd);
    if (directory >= 0)
        close(directory);
    return pid < 0 ? -error : (int)pid;
}

/* Waits for the end of a process. Returns its wait status. */
int nspod_wait(int pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return status;
}

/* Creates the cgroup, starts a container, waits for it and removes the cgroup. Returns the wait status. */
int nspod_floor_run(const struct floor *f, const char *cgroup)
{
    int pid = nspod_floor_start(f, cgroup);
    if (pid < 0)
        return pid;
    int status = nspod_wait(pid);
    return rmdir(cgroup) < 0 ? -errno : status;
}

/* Runs a process in new namespaces of these kinds (CLONE_NEW...). The memory is copied, as by fork. */
int nspod_raw_run(const char *program, uint64_t kinds)
{
    int pidfd = -1;
    struct clone_args args = {
        .flags = kinds | CLONE_PIDFD, .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD,
    };
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0)
        run(program, NULL);
    if (pid < 0)
        return -errno;
    close(pidfd);
    return nspod_wait((int)pid);
}

static int shared(void *program)
{
    run(program, NULL);
}

/* The same with memory shared until exec, which does not allow new time namespaces. */
int nspod_raw_run_shared(const char *program, uint64_t kinds)
{
    static _Thread_local char stack[16384] __attribute__((aligned(64)));
    int pidfd = -1;
    int flags = (int)kinds | CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD;
    int pid = clone(shared, stack + sizeof stack, flags, (void *)program, &pidfd);
    if (pid < 0)
        return -errno;
    close(pidfd);
    return nspod_wait(pid);
}

/* Starts this many sleeping processes in new namespaces of the five kinds. Returns the pid of the init.
 * All of them end with the init. */
int nspod_crowd(unsigned processes)
{
    struct clone_args args = {
        .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET,
        .exit_signal = SIGCHLD,
    };
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid != 0)
        return pid < 0 ? -errno : (int)pid;
    while (--processes > 0 && syscall(SYS_clone3, &(struct clone_args){ .exit_signal = SIGCHLD },
                                      sizeof(struct clone_args)) > 0)
        ;
    for (;;)
        pause();
}
