#include "dataplane/journal/journal_keeper.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ROUND_SECONDS 1 /* without a kick */

static uint64_t load(const uint64_t *field) {
    return __atomic_load_n(field, __ATOMIC_ACQUIRE);
}

static void keeper_fail(struct journal_keeper *keeper, int error, int state, const char *text) {
    int before = __atomic_load_n(&keeper->state, __ATOMIC_ACQUIRE);
    if (before == JOURNAL_KEEPER_SEEN || before == JOURNAL_KEEPER_FAILED ||
        before == state) /* the first text stands: the producer may be reading it */
        return;
    if (before == JOURNAL_KEEPER_SHORT) {
        int expected = JOURNAL_KEEPER_SHORT;
        if (!__atomic_compare_exchange_n(&keeper->state, &expected, JOURNAL_KEEPER_FINE, 0,
                                         __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            return;
    }
    memcpy(keeper->text, text, JOURNAL_TEXT_BYTES);
    keeper->error = error;
    __atomic_store_n(&keeper->state, state, __ATOMIC_RELEASE);
}

static void keeper_release(struct journal_keeper *keeper) {
    char text[JOURNAL_TEXT_BYTES];
    struct journal_store_slot *store = &keeper->dir.store;
    uint64_t released = load(&keeper->released);
    if (released == store->segment_begin)
        return;
    uint64_t old = store->segment_begin;
    store->segment_begin = released;
    store->first_position = keeper->first_positions[released % JOURNAL_SEGMENTS_MAX];
    store->stable_below = load(&keeper->stable);
    int error = journal_dir_save(&keeper->dir, text);
    for (; !error && old < released; old++)
        error = journal_dir_retire(&keeper->dir, old, text);
    if (error)
        keeper_fail(keeper, error, JOURNAL_KEEPER_FAILED, text);
}

static void keeper_prepare(struct journal_keeper *keeper) {
    char text[JOURNAL_TEXT_BYTES];
    struct journal_store_slot *store = &keeper->dir.store;
    while (keeper->prepared <= load(&keeper->in_use) + JOURNAL_AHEAD) {
        int fd, recycled;
        int error = journal_dir_prepare(&keeper->dir, keeper->prepared, &fd, &recycled, text);
        if (error) {
            keeper_fail(keeper, error, JOURNAL_KEEPER_SHORT, text);
            return;
        }
        keeper->fds[keeper->prepared % JOURNAL_FDS] = fd;
        store->segment_end = keeper->prepared + 1;
        store->stable_below = load(&keeper->stable);
        error = journal_dir_save(&keeper->dir, text);
        if (error) {
            keeper_fail(keeper, error, JOURNAL_KEEPER_FAILED, text);
            return;
        }
        uint64_t *count = recycled ? &keeper->recycled_count : &keeper->prepared_count;
        __atomic_store_n(count, *count + 1, __ATOMIC_RELAXED);
        __atomic_store_n(&keeper->prepared, keeper->prepared + 1, __ATOMIC_RELEASE);
    }
    int expected = JOURNAL_KEEPER_SHORT;
    __atomic_compare_exchange_n(&keeper->state, &expected, JOURNAL_KEEPER_FINE, 0, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
}

/* Closes what is written; notices a file that somebody removed. */
static void keeper_look(struct journal_keeper *keeper) {
    uint64_t written = load(&keeper->written);
    for (; keeper->closed < written; keeper->closed++) {
        int *fd = &keeper->fds[keeper->closed % JOURNAL_FDS];
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
    }
    for (uint64_t segment = keeper->closed; segment < keeper->prepared; segment++) {
        struct stat status;
        int fd = keeper->fds[segment % JOURNAL_FDS];
        if (fd < 0 || fstat(fd, &status) || status.st_nlink > 0)
            continue;
        char text[JOURNAL_TEXT_BYTES], name[32];
        journal_segment_name(name, segment);
        journal_say(text, MRN_ERR_IO, keeper->dir.path,
                    "file %s was removed while in use; what it held is lost when the node stops",
                    name);
        keeper_fail(keeper, MRN_ERR_IO, JOURNAL_KEEPER_FAILED, text);
        return;
    }
}

void journal_keeper_round(struct journal_keeper *keeper) {
    if (__atomic_load_n(&keeper->state, __ATOMIC_ACQUIRE) >= JOURNAL_KEEPER_FAILED)
        return;
    keeper_look(keeper);
    keeper_release(keeper);
    keeper_prepare(keeper);
}

static void *keeper_main(void *context) {
    struct journal_keeper *keeper = context;
    pthread_setname_np(pthread_self(), "journal-keep");
    while (!__atomic_load_n(&keeper->stop, __ATOMIC_ACQUIRE)) {
        struct timespec limit;
        clock_gettime(CLOCK_REALTIME, &limit);
        limit.tv_sec += ROUND_SECONDS;
        sem_timedwait(&keeper->wake, &limit); /* whatever ends it, look */
        journal_keeper_round(keeper);
    }
    return NULL;
}

int journal_keeper_start(struct journal_keeper *keeper) {
    sigset_t all, before;
    sem_init(&keeper->wake, 0, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int number = pthread_create(&keeper->thread, NULL, keeper_main, keeper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (number)
        sem_destroy(&keeper->wake);
    return number ? MRN_ERR_NO_MEMORY : 0;
}

void journal_keeper_kick(struct journal_keeper *keeper) {
    sem_post(&keeper->wake);
}

int journal_keeper_stop(struct journal_keeper *keeper, int failed, char text[JOURNAL_TEXT_BYTES]) {
    __atomic_store_n(&keeper->stop, 1, __ATOMIC_RELEASE);
    journal_keeper_kick(keeper);
    pthread_join(keeper->thread, NULL);
    sem_destroy(&keeper->wake);
    int error = 0;
    if (!failed) {
        keeper_release(keeper);
        keeper->dir.store.stable_below = keeper->stable;
        error = journal_dir_save(&keeper->dir, text);
    }
    for (uint32_t i = 0; i < JOURNAL_FDS; i++)
        if (keeper->fds[i] >= 0)
            close(keeper->fds[i]);
    journal_dir_close(&keeper->dir);
    return error;
}
