/* LD_PRELOAD library: every fsync takes half a second longer, as on a disk that is busy. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static void delay(void) {
    struct timespec busy = {0, 500 * 1000 * 1000};
    nanosleep(&busy, 0);
}

int fsync(int fd) {
    delay();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    delay();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
