/* One of so many calls that write to the journal fails. Two numbers are in a file that the test knows: one of how many, and
   how many failed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static atomic_uint *control;
static atomic_uint calls;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAILING");
    int file = path ? open(path, O_RDWR) : -1;
    if (file >= 0) {
        void *mapped = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        control = mapped == MAP_FAILED ? NULL : mapped;
        close(file);
    }
}

static int is_journal(int file) {
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "/journal.db") != NULL;
}

static int fails(int file, int with) {
    unsigned one_of = control ? atomic_load(&control[0]) : 0;
    if (one_of == 0 || !is_journal(file) || atomic_fetch_add(&calls, 1) % one_of != 0) return 0;
    atomic_fetch_add(&control[1], 1);
    errno = with;
    return 1;
}

#define REAL(type, name, ...)                                       \
    static type (*real)(__VA_ARGS__);                               \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return fails(file, ENOSPC) ? -1 : real(file, bytes, length, offset);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t offset) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return fails(file, ENOSPC) ? -1 : real(file, bytes, length, offset);
}

int fsync(int file) {
    REAL(int, "fsync", int);
    return fails(file, EIO) ? -1 : real(file);
}

int fdatasync(int file) {
    REAL(int, "fdatasync", int);
    return fails(file, EIO) ? -1 : real(file);
}

int ftruncate64(int file, off64_t length) {
    REAL(int, "ftruncate64", int, off64_t);
    return fails(file, EIO) ? -1 : real(file, length);
}
