/* LD_PRELOAD library: the wall clock of a process is shifted by as many seconds as a file says, at any time.

   The folder CLOCK_SHIFT_DIR holds a file per kind of process (serve, worker, valkey, postgres, other), each a
   double, read through a shared mapping. Counters of the time since boot are left alone, as they are when somebody
   sets the clock of a machine. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile double *shift_s;

static const char *kind(void) {
    static char line[4096];
    int fd = open("/proc/self/cmdline", O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
    if (fd >= 0) close(fd);
    for (ssize_t i = 0; i < n; i++)
        if (!line[i]) line[i] = ' ';
    if (strstr(line, "valkey-server")) return "valkey";
    if (strstr(line, "postgres")) return strstr(line, "app.cli") ? "other" : "postgres";
    if (strstr(line, " serve ")) return "serve";
    if (strstr(line, " worker ")) return "worker";
    return "other";
}

__attribute__((constructor)) static void begin(void) {
    char path[4096];
    const char *folder = getenv("CLOCK_SHIFT_DIR");
    if (!folder) return;
    snprintf(path, sizeof path, "%s/%s", folder, kind());
    int fd = open(path, O_RDONLY);
    if (fd < 0) return;
    void *found = mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED) shift_s = found;
}

static long long shift_ns(void) {
    return shift_s ? (long long)(*shift_s * 1e9) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long long ns = at->tv_sec * 1000000000LL + at->tv_nsec + shift_ns();
        at->tv_sec = ns / 1000000000LL;
        at->tv_nsec = ns % 1000000000LL;
    }
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
