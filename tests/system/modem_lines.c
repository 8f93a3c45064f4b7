/* Modem lines for a pseudo-terminal, which has none: TIOCM* of any terminal work on a word in the file that
   EDGE_TEST_LINES names. Preloaded into the line process by test_line_drivers.py; the test is the PLC on that word. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int *lines(void) {
    static volatile int *word;
    const char *path = getenv("EDGE_TEST_LINES");
    if (!word && path) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        void *where = fd < 0 ? MAP_FAILED : mmap(0, 4, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd >= 0) close(fd);
        if (where != MAP_FAILED) word = where;
    }
    return word;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    int *argument = va_arg(rest, int *);
    va_end(rest);
    const int ours = TIOCM_RTS | TIOCM_DTR;
    if (lines() && request == TIOCMGET) { *argument = __atomic_load_n(lines(), __ATOMIC_SEQ_CST); return 0; }
    if (lines() && (request == TIOCMSET || request == TIOCMBIS || request == TIOCMBIC)) {
        int before = __atomic_load_n(lines(), __ATOMIC_SEQ_CST), after;
        do {
            after = request == TIOCMSET ? (before & ~ours) | (*argument & ours)
                  : request == TIOCMBIS ? before | (*argument & ours) : before & ~(*argument & ours);
        } while (!__atomic_compare_exchange_n(lines(), &before, after, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
        return 0;
    }
    return (int)syscall(SYS_ioctl, fd, request, argument);
}
