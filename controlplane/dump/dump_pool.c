#include "controlplane/dump/dump_pool.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "maroon/error.h"

#define WORKERS_MAX 5

struct queue {
    struct dump_job *first, **last;
};

struct dump_pool {
    struct loop *loop;
    int done_fd; /* readable: jobs are done */
    pthread_t workers[WORKERS_MAX];
    uint32_t worker_count;

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    bool stop;
    struct queue todo, done;
};

static void queue_empty(struct queue *queue) {
    queue->first = NULL;
    queue->last = &queue->first;
}

static void queue_put(struct queue *queue, struct dump_job *job) {
    job->next = NULL;
    *queue->last = job;
    queue->last = &job->next;
}

static struct dump_job *queue_take(struct queue *queue) {
    struct dump_job *job = queue->first;
    if (job && !(queue->first = job->next))
        queue->last = &queue->first;
    return job;
}

static void *work(void *context) {
    struct dump_pool *pool = context;
    struct dump_rooms rooms = {0};
    pthread_mutex_lock(&pool->lock);
    while (!pool->stop) {
        struct dump_job *job = queue_take(&pool->todo);
        if (!job) {
            pthread_cond_wait(&pool->wake, &pool->lock);
            continue;
        }
        pthread_mutex_unlock(&pool->lock);
        job->run(job, &rooms);
        pthread_mutex_lock(&pool->lock);
        queue_put(&pool->done, job);
        uint64_t one = 1;
        ssize_t put = write(pool->done_fd, &one, sizeof one);
        assert(put == sizeof one);
        (void)put;
    }
    pthread_mutex_unlock(&pool->lock);
    dump_bytes_free(&rooms.first);
    dump_bytes_free(&rooms.second);
    return NULL;
}

static void on_done(void *context, int fd, uint32_t events) {
    struct dump_pool *pool = context;
    uint64_t count;
    (void)events;
    if (read(fd, &count, sizeof count) < 0)
        return;
    pthread_mutex_lock(&pool->lock);
    struct dump_job *job = pool->done.first;
    queue_empty(&pool->done);
    pthread_mutex_unlock(&pool->lock);
    while (job) {
        struct dump_job *next = job->next; /* `done` may put it again */
        job->done(job);
        job = next;
    }
}

/* One more than processors: now and then one waits for the file. */
static uint32_t workers(void) {
    cpu_set_t allowed;
    int count = sched_getaffinity(0, sizeof allowed, &allowed) ? 1 : CPU_COUNT(&allowed);
    return count < 1 ? 1 : count >= WORKERS_MAX ? WORKERS_MAX : (uint32_t)count + 1;
}

int dump_pool_start(struct loop *loop, struct dump_pool **ret_pool) {
    struct dump_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return MRN_ERR_NO_MEMORY;
    pool->loop = loop;
    queue_empty(&pool->todo);
    queue_empty(&pool->done);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool watched = pool->done_fd >= 0 && !loop_fd_set(loop, pool->done_fd, EPOLLIN, on_done, pool);
    for (uint32_t i = 0; watched && i < workers(); i++)
        if (!pthread_create(&pool->workers[pool->worker_count], NULL, work, pool))
            pthread_setname_np(pool->workers[pool->worker_count++], "dump-work");
    if (!pool->worker_count) {
        dump_pool_stop(pool);
        return MRN_ERR_NO_MEMORY;
    }
    *ret_pool = pool;
    return 0;
}

void dump_pool_put(struct dump_pool *pool, struct dump_job *job) {
    pthread_mutex_lock(&pool->lock);
    queue_put(&pool->todo, job);
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

void dump_pool_stop(struct dump_pool *pool) {
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->worker_count; i++)
        pthread_join(pool->workers[i], NULL);
    if (pool->done_fd >= 0) {
        loop_fd_clear(pool->loop, pool->done_fd);
        close(pool->done_fd);
    }
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}
