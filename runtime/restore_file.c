#include "runtime/restore_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREADS_MAX 4

static int64_t read_at(void *user, uint64_t at_bytes, void *bytes, size_t room_bytes) {
    ssize_t count;
    do
        count = pread(*(const int *)user, bytes, room_bytes, (off_t)at_bytes);
    while (count < 0 && errno == EINTR);
    return count < 0 ? MRN_ERR_IO : count;
}

struct errand {
    void (*work)(void *context);
    void *context;
};

static void *go(void *argument) {
    const struct errand *errand = argument;
    errand->work(errand->context);
    return NULL;
}

/* `user`: the processors. A thread that cannot be had is done without. */
static void run(void *user, void (*work)(void *context), void *context) {
    const cpu_set_t *processors = user;
    struct errand errand = {work, context};
    pthread_t threads[THREADS_MAX];
    uint32_t count = 0, most = (uint32_t)CPU_COUNT(processors);
    pthread_attr_t attributes;
    if (most > THREADS_MAX)
        most = THREADS_MAX;
    if (pthread_attr_init(&attributes) == 0) {
        (void)pthread_attr_setaffinity_np(&attributes, sizeof *processors, processors);
        while (count + 1 < most && pthread_create(&threads[count], &attributes, go, &errand) == 0)
            pthread_setname_np(threads[count++], "restore");
        (void)pthread_attr_destroy(&attributes);
    }
    work(context);
    for (uint32_t i = 0; i < count; i++)
        (void)pthread_join(threads[i], NULL);
}

int runtime_restore_file(struct runtime *runtime, int fd, struct runtime_snapshot_info *ret_info) {
    struct stat info;
    cpu_set_t processors;
    CPU_ZERO(&processors);
    /* The first thread's are the process's: a stage's thread has but one of them. */
    if (sched_getaffinity(getpid(), sizeof processors, &processors) != 0)
        CPU_SET(0, &processors);
    if (fstat(fd, &info) != 0)
        return MRN_ERR_IO;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    struct runtime_source source = {read_at, &fd, (uint64_t)info.st_size};
    struct runtime_crew crew = {run, &processors};
    return runtime_restore(runtime, &source, &crew, ret_info);
}
