/* A clock that a test may let run ahead: preloaded into Wine, it adds to the computer's monotonic clocks
   the nanoseconds that stand in the file $WARDRING_TESTS_CLOCK. Windows' own time of day stays true.
   Wine's server waits no longer than a moment at once, so that what is due by then comes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MOMENT_MS 20

static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_wait)(int, struct epoll_event *, int, int);
static volatile uint64_t *ahead;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("WARDRING_TESTS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    real_wait = dlsym(RTLD_NEXT, "epoll_wait");
    if (page != MAP_FAILED) ahead = page;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real_clock) begin();
    int failed = real_clock(clock, time);
    if (!failed && ahead && (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_RAW
                             || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME)) {
        uint64_t all = (uint64_t)time->tv_nsec + *ahead;
        time->tv_sec += all / 1000000000u;
        time->tv_nsec = all % 1000000000u;
    }
    return failed;
}

int epoll_wait(int poll, struct epoll_event *events, int most, int timeout) {
    if (!real_wait) begin();
    if (ahead && (timeout < 0 || timeout > MOMENT_MS)) timeout = MOMENT_MS;
    return real_wait(poll, events, most, timeout);
}
