#include "dataplane/stages/snapshots.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <maroon/error.h>

#define RING_BYTES (4u << 20)
#define NAME_FORMAT "snapshot-%016" PRIx64
#define HALF_NAME "snapshot.new"

enum state { IDLE = 0, WRITING, FINISHING, ABANDONED, DONE };

struct snapshots {
    char directory[SNAPSHOTS_PATH_MAX - 64];
    pthread_t thread;
    bool runs;
    int wake_fd;
    _Atomic bool stop;
    _Atomic int
        state;         /* enum state: the producer moves it to WRITING, FINISHING, ABANDONED and
                          IDLE, the keeper to DONE; each store is a release of what was set before */
    _Atomic int error; /* of the keeper, while it writes */
    _Atomic uint64_t head, tail; /* bytes put in and taken out, ever */
    int fd;
    bool adopt;
    struct snapshots_done job;
    uint8_t *ring;
};

static bool keeps_local(const struct snapshots *s) {
    return s->directory[0] != '\0';
}

static bool name_seq(const char *name, uint64_t *ret_seq) {
    int end = 0;
    return sscanf(name, NAME_FORMAT "%n", ret_seq, &end) == 1 && end == 25 && !name[end];
}

/* ---- the keeper ---- */

static int sync_directory(const struct snapshots *s) {
    int fd = open(s->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = fd < 0 || fsync(fd) ? MRN_ERR_IO : 0;
    if (fd >= 0)
        close(fd);
    return error;
}

static void remove_older(const struct snapshots *s, uint64_t seq) {
    DIR *dir = opendir(s->directory);
    if (!dir)
        return;
    uint64_t other;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (name_seq(entry->d_name, &other) && other < seq)
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
}

/* Names a whole file: from now on this node would start from it. */
static int make_local(struct snapshots *s, int fd) {
    char path[SNAPSHOTS_PATH_MAX];
    snprintf(path, sizeof path, "%s/" NAME_FORMAT, s->directory, s->job.seq);
    if (fsync(fd) || rename(s->job.path, path))
        return errno == ENOSPC ? MRN_ERR_FULL : MRN_ERR_IO;
    memcpy(s->job.path, path, sizeof path);
    int error = sync_directory(s);
    if (!error)
        remove_older(s, s->job.seq);
    return error;
}

static int write_all(int fd, const uint8_t *bytes, size_t length_bytes) {
    while (length_bytes) {
        ssize_t n = write(fd, bytes, length_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return errno == ENOSPC ? MRN_ERR_FULL : MRN_ERR_IO;
        bytes += n;
        length_bytes -= (size_t)n;
    }
    return 0;
}

static bool drain(struct snapshots *s) {
    uint64_t tail = atomic_load_explicit(&s->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&s->head, memory_order_acquire);
    if (head == tail)
        return false;
    uint64_t at = tail % RING_BYTES;
    uint64_t length = head - tail < RING_BYTES - at ? head - tail : RING_BYTES - at;
    int error = atomic_load_explicit(&s->error, memory_order_relaxed);
    if (!error)
        error = write_all(s->fd, s->ring + at, length);
    atomic_store_explicit(&s->error, error, memory_order_relaxed);
    atomic_store_explicit(&s->tail, tail + length, memory_order_release);
    return true;
}

static void finish(struct snapshots *s, bool wanted) {
    int error = atomic_load_explicit(&s->error, memory_order_relaxed);
    if (s->adopt)
        s->fd = open(s->job.path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0)
        error = MRN_ERR_IO;
    if (wanted && !error && s->job.local)
        error = make_local(s, s->fd);
    if (s->fd >= 0 && close(s->fd) && !error)
        error = MRN_ERR_IO;
    s->fd = -1;
    if ((!wanted || error) && !s->adopt)
        (void)unlink(s->job.path);
    if (wanted || error)
        s->job.error = error; /* else: as snapshots_abandon said */
    atomic_store_explicit(&s->state, DONE, memory_order_release);
}

static void *keep(void *argument) {
    struct snapshots *s = argument;
    pthread_setname_np(pthread_self(), "snapshots");
    while (!atomic_load_explicit(&s->stop, memory_order_acquire)) {
        int state = atomic_load_explicit(&s->state, memory_order_acquire);
        if ((state == WRITING || state == FINISHING || state == ABANDONED) && drain(s))
            continue;
        if (state == FINISHING || state == ABANDONED) {
            finish(s, state == FINISHING);
            continue;
        }
        uint64_t count;
        if (read(s->wake_fd, &count, sizeof count) < 0 && errno != EINTR)
            break;
    }
    return NULL;
}

static void wake(const struct snapshots *s) {
    uint64_t one = 1;
    ssize_t put = write(s->wake_fd, &one, sizeof one);
    assert(put == sizeof one);
}

/* ---- open, close ---- */

int snapshots_open(const char *directory, struct snapshots **ret_snapshots) {
    struct snapshots *s = calloc(1, sizeof *s);
    if (!s)
        return MRN_ERR_NO_MEMORY;
    s->fd = -1;
    s->wake_fd = eventfd(0, EFD_CLOEXEC);
    s->ring = malloc(RING_BYTES);
    int length = snprintf(s->directory, sizeof s->directory, "%s", directory ? directory : "");
    int error = !s->ring ? MRN_ERR_NO_MEMORY : s->wake_fd < 0 ? MRN_ERR_IO : 0;
    if (!error && (size_t)length >= sizeof s->directory)
        error = MRN_ERR_TOO_LARGE;
    if (!error && keeps_local(s)) {
        char half[SNAPSHOTS_PATH_MAX];
        if (mkdir(s->directory, 0700) && errno != EEXIST)
            error = MRN_ERR_IO;
        snprintf(half, sizeof half, "%s/" HALF_NAME, s->directory);
        (void)unlink(half);
    }
    if (!error && pthread_create(&s->thread, NULL, keep, s))
        error = MRN_ERR_NO_MEMORY;
    s->runs = !error;
    if (error)
        snapshots_close(s);
    else
        *ret_snapshots = s;
    return error;
}

void snapshots_close(struct snapshots *s) {
    if (!s)
        return;
    if (s->runs) {
        atomic_store_explicit(&s->stop, true, memory_order_release);
        wake(s);
        pthread_join(s->thread, NULL);
        int state = atomic_load_explicit(&s->state, memory_order_relaxed);
        if ((state == WRITING || state == FINISHING || state == ABANDONED) && !s->adopt)
            (void)unlink(s->job.path);
    }
    if (s->fd >= 0)
        close(s->fd);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    free(s->ring);
    free(s);
}

bool snapshots_newest(const struct snapshots *s, char ret_path[SNAPSHOTS_PATH_MAX],
                      uint64_t *ret_seq) {
    DIR *dir = keeps_local(s) ? opendir(s->directory) : NULL;
    bool found = false;
    uint64_t seq;
    *ret_seq = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (name_seq(entry->d_name, &seq) && (!found || seq > *ret_seq)) {
            *ret_seq = seq;
            found = true;
        }
    if (dir)
        closedir(dir);
    if (found)
        snprintf(ret_path, SNAPSHOTS_PATH_MAX, "%s/" NAME_FORMAT, s->directory, *ret_seq);
    return found;
}

/* ---- the producer ---- */

bool snapshots_idle(const struct snapshots *s) {
    return atomic_load_explicit(&s->state, memory_order_acquire) == IDLE;
}

int snapshots_begin(struct snapshots *s, const char *path) {
    assert(snapshots_idle(s) && (path || keeps_local(s)));
    memset(&s->job, 0, sizeof s->job);
    s->adopt = false;
    s->job.local = !path;
    int length = path ? snprintf(s->job.path, sizeof s->job.path, "%s", path)
                      : snprintf(s->job.path, sizeof s->job.path, "%s/" HALF_NAME, s->directory);
    if (length < 0 || (size_t)length >= sizeof s->job.path)
        return MRN_ERR_TOO_LARGE;
    s->fd = open(s->job.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (s->fd < 0)
        return MRN_ERR_IO;
    atomic_store_explicit(&s->head, 0, memory_order_relaxed);
    atomic_store_explicit(&s->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&s->error, 0, memory_order_relaxed);
    atomic_store_explicit(&s->state, WRITING, memory_order_release);
    return 0;
}

size_t snapshots_room_bytes(const struct snapshots *s) {
    return RING_BYTES - (size_t)(atomic_load_explicit(&s->head, memory_order_relaxed) -
                                 atomic_load_explicit(&s->tail, memory_order_acquire));
}

int snapshots_write(void *snapshots, const void *bytes, size_t length_bytes) {
    struct snapshots *s = snapshots;
    const uint8_t *from = bytes;
    int error = atomic_load_explicit(&s->error, memory_order_relaxed);
    if (error || length_bytes > snapshots_room_bytes(s))
        return error ? error : MRN_ERR_FULL;
    uint64_t head = atomic_load_explicit(&s->head, memory_order_relaxed);
    size_t at = head % RING_BYTES;
    size_t first = length_bytes < RING_BYTES - at ? length_bytes : RING_BYTES - at;
    memcpy(s->ring + at, from, first);
    memcpy(s->ring, from + first, length_bytes - first);
    atomic_store_explicit(&s->head, head + length_bytes, memory_order_release);
    wake(s);
    return 0;
}

static void hand_over(struct snapshots *s, enum state state) {
    atomic_store_explicit(&s->state, (int)state, memory_order_release);
    wake(s);
}

void snapshots_end(struct snapshots *s, uint64_t seq) {
    assert(atomic_load_explicit(&s->state, memory_order_relaxed) == WRITING);
    s->job.seq = seq;
    hand_over(s, FINISHING);
}

void snapshots_abandon(struct snapshots *s, int error) {
    if (atomic_load_explicit(&s->state, memory_order_relaxed) != WRITING)
        return;
    s->job.error = error;
    hand_over(s, ABANDONED);
}

void snapshots_adopt(struct snapshots *s, const char *path, uint64_t seq) {
    assert(snapshots_idle(s) && keeps_local(s));
    memset(&s->job, 0, sizeof s->job);
    s->adopt = true;
    s->job.local = s->job.adopted = true;
    s->job.seq = seq;
    snprintf(s->job.path, sizeof s->job.path, "%s", path);
    atomic_store_explicit(&s->head, 0, memory_order_relaxed);
    atomic_store_explicit(&s->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&s->error, 0, memory_order_relaxed);
    hand_over(s, FINISHING);
}

bool snapshots_poll(struct snapshots *s, struct snapshots_done *ret_done) {
    if (atomic_load_explicit(&s->state, memory_order_acquire) != DONE)
        return false;
    *ret_done = s->job;
    atomic_store_explicit(&s->state, IDLE, memory_order_release);
    return true;
}
