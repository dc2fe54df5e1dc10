/* One of so many calls that write to the journal fails, and the clock is wrong by so much. Three numbers are in a file that the
   test knows: one of how many, how many failed, and by how many nanoseconds the clock is ahead. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static struct {
    atomic_uint one_of;
    atomic_uint failed;
    atomic_llong ahead;
} *control;
static atomic_uint calls;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MACHINE");
    int file = path ? open(path, O_RDWR) : -1;
    if (file >= 0) {
        void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
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
    unsigned one_of = control ? atomic_load(&control->one_of) : 0;
    if (one_of == 0 || !is_journal(file) || atomic_fetch_add(&calls, 1) % one_of != 0) return 0;
    atomic_fetch_add(&control->failed, 1);
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

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int failure = real(clock, now);
    if (failure == 0 && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long long moment = now->tv_sec * SECOND + now->tv_nsec + atomic_load(&control->ahead);
        now->tv_sec = moment / SECOND;
        now->tv_nsec = moment % SECOND;
    }
    return failure;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec moment;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &moment);
    now->tv_sec = moment.tv_sec;
    now->tv_usec = moment.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec moment;
    clock_gettime(CLOCK_REALTIME, &moment);
    if (now) *now = moment.tv_sec;
    return moment.tv_sec;
}
