/* Loaded into a service by LD_PRELOAD: counts the storage operations under a path and lets some of them fail, tear or kill.
 *
 * Everything is told through one shared file (see shim.py), so that a test arms it while the service runs. Operations are those
 * of the processes whose role is in the mask, on names or descriptors under the prefix, numbered from 1 since it was armed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FAIL = 1, SHORT, TORN, KILL, TORN_KILL };
enum { API = 1, SUPERVISOR = 2, ATTEMPT = 4, TRACED = 400, WIDTH = 96 };
static struct control {
  unsigned roles, first, last, fault, error, count, fired, unused; /* operations first..last do `fault` */
  char prefix[256], trace[TRACED][WIDTH];
} *control;
static unsigned role;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("SHIM_CONTROL");
  char command[4096] = "";
  int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? 0 : read(fd, command, sizeof command - 1);
  for (ssize_t i = 0; i < size; i++) if (!command[i]) command[i] = ' ';
  if (fd >= 0) close(fd);
  role = strstr(command, "service.execution.supervisor") ? SUPERVISOR : strstr(command, "service.execution.zygote") ? ATTEMPT
       : strstr(command, "service.cli serve") ? API : 0;
  if (!path || !role || (fd = open(path, O_RDWR | O_CLOEXEC)) < 0) return;
  void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (map != MAP_FAILED) control = map;
}

/* Return the fault of this operation, 0 for none. A write that is to tear or to be short is told so; others fail. */
static unsigned judge(const char *name, int dir, const char *path, int is_write) {
  if (!control || !(control->roles & role)) return 0;
  char link[64], whole[4096];
  if (!path || path[0] != '/') { /* by its descriptor, or below the folder of one */
    if (dir == AT_FDCWD) strcpy(link, "/proc/self/cwd"); else snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t size = readlink(link, whole, sizeof whole - 256);
    if (size < 0) return 0;
    snprintf(whole + size, sizeof whole - size, "%s%.200s", path ? "/" : "", path ? path : "");
  } else snprintf(whole, sizeof whole, "%s", path);
  size_t length = strlen(control->prefix);
  if (strncmp(whole, control->prefix, length)) return 0;
  unsigned number = __sync_add_and_fetch(&control->count, 1), fault = control->fault;
  if (number <= TRACED) snprintf(control->trace[number - 1], WIDTH, "%s %s", name, whole + length);
  if (number < control->first || number > control->last || (fault == SHORT && !is_write)) return 0;
  __sync_add_and_fetch(&control->fired, 1);
  if (fault == KILL || (fault == TORN_KILL && !is_write)) kill(getpid(), SIGKILL);
  errno = (int)control->error;
  return fault == TORN && !is_write ? FAIL : fault;
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) *(void **)&real = dlsym(RTLD_NEXT, name)
#define PLAIN(type, name, dir, path, parameters, arguments) \
  type name parameters { static type (*real) parameters; if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name); \
    return judge(#name, dir, path, 0) ? (type)-1 : real arguments; }
#define OPEN(name) int name(const char *path, int flags, ...) { REAL(int, #name, const char *, int, mode_t); \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    return judge("open", AT_FDCWD, path, 0) ? -1 : real(path, flags, mode); }
#define OPENAT(name) int name(int dir, const char *path, int flags, ...) { REAL(int, #name, int, const char *, int, mode_t); \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    return judge("open", dir, path, 0) ? -1 : real(dir, path, flags, mode); }
/* A write of half the bytes; then short: that is all, torn: an error, or the end. */
#define WRITE(name, parameters, whole, half) ssize_t name parameters { \
    static ssize_t (*real) parameters; if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name); \
    unsigned fault = judge(#name, fd, NULL, 1); int error = errno; \
    if (!fault) return real whole; \
    if (fault == FAIL) return -1; \
    ssize_t done = real half; if (fault == TORN_KILL) kill(getpid(), SIGKILL); \
    if (fault == TORN) { errno = error; return -1; } return done; }
#define HALF(size) (size > 1 ? size / 2 : size)

OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)
WRITE(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, HALF(size)))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, HALF(size), at))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), (fd, data, HALF(size), at))
WRITE(writev, (int fd, const struct iovec *v, int n), (fd, v, n), (fd, v, HALF(n)))
PLAIN(ssize_t, read, fd, NULL, (int fd, void *data, size_t size), (fd, data, size))
PLAIN(ssize_t, pread64, fd, NULL, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
PLAIN(int, fsync, fd, NULL, (int fd), (fd))
PLAIN(int, fdatasync, fd, NULL, (int fd), (fd))
PLAIN(int, ftruncate, fd, NULL, (int fd, off_t size), (fd, size))
PLAIN(int, ftruncate64, fd, NULL, (int fd, off64_t size), (fd, size))
PLAIN(int, rename, AT_FDCWD, to, (const char *from, const char *to), (from, to))
PLAIN(int, renameat, dir, to, (int old, const char *from, int dir, const char *to), (old, from, dir, to))
PLAIN(int, link, AT_FDCWD, to, (const char *from, const char *to), (from, to))
PLAIN(int, linkat, dir, to, (int old, const char *from, int dir, const char *to, int flags), (old, from, dir, to, flags))
PLAIN(int, mkdir, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
PLAIN(int, mkdirat, dir, path, (int dir, const char *path, mode_t mode), (dir, path, mode))
PLAIN(int, unlink, AT_FDCWD, path, (const char *path), (path))
PLAIN(int, unlinkat, dir, path, (int dir, const char *path, int flags), (dir, path, flags))
PLAIN(int, rmdir, AT_FDCWD, path, (const char *path), (path))
/* Room for the end of an attempt; it returns the error instead of setting errno. */
int posix_fallocate64(int fd, off64_t at, off64_t size) {
  REAL(int, "posix_fallocate64", int, off64_t, off64_t);
  return judge("fallocate", fd, NULL, 0) ? errno : real(fd, at, size);
}
int posix_fallocate(int fd, off_t at, off_t size) { return posix_fallocate64(fd, at, size); }
