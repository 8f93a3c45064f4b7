/* A stepped wall clock: CLOCK_REALTIME, gettimeofday and time are off by the seconds in the file that EDGE_TEST_CLOCK
   names (a native int64). Preloaded into daemon and line process by the fault campaign. All other clocks are untouched:
   libfaketime 0.9.10 breaks clock_nanosleep on CLOCK_MONOTONIC, which Python 3.11 sleeps on. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t offset_s(void) {
    static volatile int64_t *word;
    static int tried;
    if (!tried) {
        tried = 1;
        const char *path = getenv("EDGE_TEST_CLOCK");
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd >= 0) {
            void *where = mmap(0, sizeof *word, PROT_READ, MAP_SHARED, fd, 0);
            close(fd);
            if (where != MAP_FAILED) word = where;
        }
    }
    return word ? *word : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += offset_s();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *where) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (where) *where = exact.tv_sec;
    return exact.tv_sec;
}
