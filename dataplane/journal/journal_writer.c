#include "dataplane/journal/journal_writer.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/journal/journal.h"

static void slots_put(struct journal_slots *queue, uint32_t slot) {
    uint32_t tail = queue->tail;
    queue->slots[tail % JOURNAL_WRITES_MAX] = (uint8_t)slot;
    __atomic_store_n(&queue->tail, tail + 1, __ATOMIC_RELEASE); /* pairs with slots_take */
}

static int slots_take(struct journal_slots *queue, uint32_t *ret_slot) {
    uint32_t head = queue->head;
    if (head == __atomic_load_n(&queue->tail, __ATOMIC_ACQUIRE))
        return 0;
    *ret_slot = queue->slots[head % JOURNAL_WRITES_MAX];
    queue->head = head + 1;
    return 1;
}

static int write_all(const struct journal_write *write) {
    uint32_t at = 0;
    while (at < write->length_bytes) {
        ssize_t length = pwrite(write->fd, (const uint8_t *)write->bytes + at,
                                write->length_bytes - at, (off_t)(write->offset + at));
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0)
            return -errno;
        if (length == 0)
            break;
        at += (uint32_t)length;
    }
    return (int)at;
}

static void *writer_main(void *context) {
    struct journal_writer *writer = context;
    pthread_setname_np(pthread_self(), "journal-write");
    for (;;) {
        uint32_t taken[JOURNAL_WRITES_MAX], count = 0;
        while (sem_wait(&writer->wake))
            assert(errno == EINTR);
        while (count < JOURNAL_WRITES_MAX && slots_take(&writer->queued, &taken[count]))
            count++;
        if (count == 0 && __atomic_load_n(&writer->stop, __ATOMIC_ACQUIRE))
            return NULL;
        for (uint32_t i = 0; i < count; i++)
            if (writer->writes[taken[i]].fd >= 0)
                writer->writes[taken[i]].result = write_all(&writer->writes[taken[i]]);
        for (uint32_t i = 0; i < count; i++) {
            struct journal_write *write = &writer->writes[taken[i]];
            int covered = i + 1 < count && writer->writes[taken[i + 1]].fd == write->fd;
            if (covered || write->fd < 0)
                continue; /* the sync of a later one covers it */
            int error = fdatasync(write->fd) ? -errno : 0;
            for (uint32_t k = 0; error && k <= i; k++)
                if (writer->writes[taken[k]].fd == write->fd && writer->writes[taken[k]].result > 0)
                    writer->writes[taken[k]].result = error;
        }
        for (uint32_t i = 0; i < count; i++)
            slots_put(&writer->done, taken[i]);
        if (count)
            sem_post(&writer->reapable);
    }
}

static int start_thread(struct journal_writer *writer) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int number = pthread_create(&writer->thread, NULL, writer_main, writer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return number;
}

int journal_writer_init(struct journal_writer *writer, int mode,
                        const struct journal_faults *faults) {
    memset(writer, 0, sizeof(*writer));
    writer->faults = faults;
    writer->uses_thread = mode == JOURNAL_WRITER_THREAD;
    if (!writer->uses_thread) {
        writer->uring_errno = journal_fault(faults, JOURNAL_OP_URING, 0, 0);
        if (!writer->uring_errno)
            writer->uring_errno = -io_uring_queue_init(JOURNAL_WRITES_MAX, &writer->ring, 0);
        if (!writer->uring_errno)
            return 0;
        if (mode == JOURNAL_WRITER_URING)
            return MRN_ERR_UNSUPPORTED;
        writer->uses_thread = 1;
    }
    sem_init(&writer->wake, 0, 0);
    sem_init(&writer->reapable, 0, 0);
    return start_thread(writer) ? MRN_ERR_NO_MEMORY : 0;
}

void journal_writer_end(struct journal_writer *writer) {
    if (!writer->uses_thread) {
        io_uring_queue_exit(&writer->ring);
        return;
    }
    __atomic_store_n(&writer->stop, 1, __ATOMIC_RELEASE);
    sem_post(&writer->wake);
    pthread_join(writer->thread, NULL);
    sem_destroy(&writer->wake);
    sem_destroy(&writer->reapable);
}

static void uring_start(struct journal_writer *writer, uint32_t slot) {
    const struct journal_write *write = &writer->writes[slot];
    struct io_uring_sqe *sqe = io_uring_get_sqe(&writer->ring);
    assert(sqe); /* as many entries as slots */
    io_uring_prep_write(sqe, write->fd, write->bytes, write->length_bytes, write->offset);
    sqe->rw_flags = RWF_DSYNC;
    io_uring_sqe_set_data64(sqe, slot);
    io_uring_submit(&writer->ring); /* if it fails, reap submits again */
}

void journal_writer_start(struct journal_writer *writer, uint32_t slot,
                          const struct journal_write *write) {
    assert(slot < JOURNAL_WRITES_MAX);
    writer->writes[slot] = *write;
    int number = journal_fault(writer->faults, JOURNAL_OP_WRITE, write->segment, write->offset);
    if (number && !writer->uses_thread) {
        writer->writes[slot].result = -number;
        slots_put(&writer->done, slot);
        return;
    }
    if (number) { /* the thread does not touch it, but it takes its way */
        writer->writes[slot].fd = -1;
        writer->writes[slot].result = -number;
    }
    if (!writer->uses_thread) {
        uring_start(writer, slot);
        return;
    }
    slots_put(&writer->queued, slot);
    sem_post(&writer->wake);
}

int journal_writer_reap(struct journal_writer *writer, uint32_t *ret_slot) {
    struct io_uring_cqe *cqe;
    if (slots_take(&writer->done, ret_slot))
        return 1;
    if (writer->uses_thread)
        return 0;
    if (io_uring_sq_ready(&writer->ring))
        io_uring_submit(&writer->ring);
    if (io_uring_peek_cqe(&writer->ring, &cqe))
        return 0;
    uint32_t slot = (uint32_t)io_uring_cqe_get_data64(cqe);
    int result = cqe->res;
    io_uring_cqe_seen(&writer->ring, cqe);
    if (result == -EAGAIN || result == -EINTR) {
        uring_start(writer, slot);
        return 0;
    }
    writer->writes[slot].result = result;
    *ret_slot = slot;
    return 1;
}

void journal_writer_wait(struct journal_writer *writer) {
    if (!writer->uses_thread) {
        struct io_uring_cqe *cqe;
        struct __kernel_timespec limit = {.tv_nsec = 1000 * 1000};
        io_uring_wait_cqe_timeout(&writer->ring, &cqe, &limit);
        return;
    }
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_nsec += 1000 * 1000;
    limit.tv_sec += limit.tv_nsec / 1000000000;
    limit.tv_nsec %= 1000000000;
    sem_timedwait(&writer->reapable, &limit);
}
