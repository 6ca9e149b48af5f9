#include "controlplane/stretches.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "controlplane/dump/dump_journal.h"
#include "controlplane/log.h"
#include "maroon/error.h"

#define WAITING_MAX 8
#define ENOUGH 1 /* what emit returns when the answer is full */

struct job {
    struct job *next;
    uint64_t after_seq, to_seq;
    struct wire_hash to_hash;
    stretches_ready ready;
    void *context;
    int error;
    uint64_t seq, bytes;
    char path[512], text[DUMP_TEXT_BYTES];
};

struct stretches {
    struct stretches_setup setup;
    char dir[480];
    struct stretches_counters counters;
    uint32_t waiting; /* jobs not answered yet */
    pthread_t thread;
    int done_fd;
    _Atomic bool stop;

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    struct job *first, **end; /* to do */
    struct job *done;

    /* the thread's */
    struct dump_journal journal;
    uint64_t number;
};

/* ---- the thread ---- */

struct writing {
    struct stretches *stretches;
    struct job *job;
    FILE *file;
};

static int write_record(void *context, uint64_t seq, const struct wire_hash *hash,
                        const void *record, size_t count) {
    struct writing *w = context;
    (void)hash;
    if (atomic_load(&w->stretches->stop))
        return MRN_ERR_CLOSED;
    if (fwrite(record, count, 1, w->file) != 1)
        return errno == ENOSPC ? MRN_ERR_NO_SPACE : MRN_ERR_IO;
    w->job->seq = seq;
    w->job->bytes += count;
    return w->job->bytes >= w->stretches->setup.bytes_max ? ENOUGH : 0;
}

static void do_job(struct stretches *s, struct job *job) {
    struct dump_journal_span span = {.after_seq = job->after_seq,
                                     .to_seq = job->to_seq,
                                     .to_hash = job->to_hash,
                                     .digest_key = s->setup.digest_key};
    struct writing w = {s, job, NULL};
    snprintf(job->path, sizeof job->path, "%.440s/stretch-%" PRIu64, s->dir, s->number++);
    w.file = fopen(job->path, "we");
    if (!w.file) {
        job->error = MRN_ERR_IO;
        return;
    }
    s->journal.place = dump_journal_place(&s->journal, job->after_seq);
    job->error = dump_journal_read(&s->journal, &span, write_record, &w, job->text);
    if (!job->bytes && (job->error == MRN_ERR_NOT_FOUND || job->error == MRN_ERR_UNAVAILABLE)) {
        /* Perhaps segments went while they were read: once more, from where it begins now. */
        s->journal.place = 0;
        job->error = dump_journal_read(&s->journal, &span, write_record, &w, job->text);
    }
    if (job->bytes && (job->error == ENOUGH || job->error == MRN_ERR_UNAVAILABLE ||
                       job->error == MRN_ERR_NOT_FOUND))
        job->error = 0; /* some of it is better than nothing; the rest when it is asked for */
    if (job->error == MRN_ERR_UNAVAILABLE)
        job->error = MRN_ERR_NOT_FOUND;
    if (fclose(w.file) && !job->error)
        job->error = MRN_ERR_NO_SPACE;
}

static void *run(void *context) {
    struct stretches *s = context;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        while (!s->first && !atomic_load(&s->stop))
            pthread_cond_wait(&s->wake, &s->lock);
        struct job *job = s->first;
        if (job) {
            s->first = job->next;
            if (!s->first)
                s->end = &s->first;
        }
        pthread_mutex_unlock(&s->lock);
        if (!job)
            return NULL;
        if (atomic_load(&s->stop))
            job->error = MRN_ERR_CLOSED;
        else
            do_job(s, job);
        pthread_mutex_lock(&s->lock);
        job->next = s->done;
        s->done = job;
        pthread_mutex_unlock(&s->lock);
        uint64_t one = 1;
        ssize_t put = write(s->done_fd, &one, sizeof one);
        (void)put;
    }
}

/* ---- the loop ---- */

static void answer_done(struct stretches *s) {
    pthread_mutex_lock(&s->lock);
    struct job *done = s->done;
    s->done = NULL;
    pthread_mutex_unlock(&s->lock);
    while (done) {
        struct job *job = done;
        done = job->next;
        s->waiting--;
        s->counters.served += !job->error;
        s->counters.failed += job->error != 0;
        s->counters.bytes += job->bytes;
        mrn_log_info("stretch",
                     "after=%" PRIu64 " to=%" PRIu64 " got=%" PRIu64 " bytes=%" PRIu64
                     " error=%s why=%s",
                     job->after_seq, job->to_seq, job->seq, job->bytes,
                     job->error ? mrn_error_name(job->error) : "none",
                     mrn_log_quote(job->error ? job->text : ""));
        job->ready(job->context, job->error, job->error ? NULL : job->path, job->seq);
        (void)unlink(job->path); /* whoever reads it has it open */
        free(job);
    }
}

static void on_done(void *context, int fd, uint32_t events) {
    uint64_t count;
    ssize_t got = read(fd, &count, sizeof count);
    (void)got;
    (void)events;
    answer_done(context);
}

void stretches_want(struct stretches *s, uint64_t after_seq, uint64_t to_seq,
                    const struct wire_hash *to_hash, stretches_ready ready, void *context) {
    struct job *job = s->waiting < WAITING_MAX ? calloc(1, sizeof *job) : NULL;
    if (!job) {
        ready(context, s->waiting < WAITING_MAX ? MRN_ERR_NO_MEMORY : MRN_ERR_FULL, NULL, 0);
        return;
    }
    *job = (struct job){.after_seq = after_seq,
                        .to_seq = to_seq,
                        .to_hash = *to_hash,
                        .ready = ready,
                        .context = context};
    s->waiting++;
    pthread_mutex_lock(&s->lock);
    *s->end = job;
    s->end = &job->next;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void stretches_counters(const struct stretches *s, struct stretches_counters *ret_counters) {
    *ret_counters = s->counters;
}

struct stretches *stretches_create(const struct stretches_setup *setup) {
    struct stretches *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->setup = *setup;
    if (!s->setup.bytes_max)
        s->setup.bytes_max = STRETCHES_BYTES_MAX;
    s->end = &s->first;
    snprintf(s->dir, sizeof s->dir, "%.470s/tmp", setup->data_dir);
    snprintf(s->journal.directory, sizeof s->journal.directory, "%.480s/journal", setup->data_dir);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    s->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->done_fd < 0 || loop_fd_set(setup->loop, s->done_fd, EPOLLIN, on_done, s) ||
        pthread_create(&s->thread, NULL, run, s)) {
        if (s->done_fd >= 0) {
            loop_fd_clear(setup->loop, s->done_fd);
            close(s->done_fd);
        }
        free(s);
        return NULL;
    }
    pthread_setname_np(s->thread, "stretches");
    return s;
}

void stretches_destroy(struct stretches *s) {
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->stop, true);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    answer_done(s);
    loop_fd_clear(s->setup.loop, s->done_fd);
    close(s->done_fd);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
