#include "controlplane/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "maroon/error.h"

#define EVENTS_PER_PASS 64

struct watched {
    loop_fd_handler handler; /* NULL: not watched */
    void *context;
    uint32_t generation; /* tells an event of a closed fd from one of the fd that took its number */
};

struct loop {
    int epoll_fd;
    struct watched *watched; /* by fd */
    int watched_count;
    struct loop_timer *timers; /* unordered: there are few */
    uint64_t now_ns;
};

static uint64_t read_clock_ns(void) {
    struct timespec now;
    int failed = clock_gettime(CLOCK_MONOTONIC, &now);
    assert(!failed);
    (void)failed;
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

struct loop *loop_create(void) {
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return NULL;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        free(loop);
        return NULL;
    }
    loop->now_ns = read_clock_ns();
    return loop;
}

void loop_destroy(struct loop *loop) {
    if (!loop)
        return;
    close(loop->epoll_fd);
    free(loop->watched);
    free(loop);
}

static int make_room(struct loop *loop, int fd) {
    if (fd < loop->watched_count)
        return 0;
    int count = fd + 64;
    struct watched *grown = realloc(loop->watched, (size_t)count * sizeof *grown);
    if (!grown)
        return MRN_ERR_NO_MEMORY;
    memset(grown + loop->watched_count, 0, (size_t)(count - loop->watched_count) * sizeof *grown);
    loop->watched = grown;
    loop->watched_count = count;
    return 0;
}

int loop_fd_set(struct loop *loop, int fd, uint32_t epoll_events, loop_fd_handler handler,
                void *context) {
    assert(fd >= 0 && handler);
    int error = make_room(loop, fd);
    if (error)
        return error;
    struct watched *watched = &loop->watched[fd];
    bool known = watched->handler != NULL;
    if (!known)
        watched->generation++;
    struct epoll_event event = {
        .events = epoll_events,
        .data.u64 = (uint64_t)watched->generation << 32 | (uint32_t)fd,
    };
    if (epoll_ctl(loop->epoll_fd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) < 0)
        return MRN_ERR_IO;
    watched->handler = handler;
    watched->context = context;
    return 0;
}

void loop_fd_clear(struct loop *loop, int fd) {
    if (fd < 0 || fd >= loop->watched_count || !loop->watched[fd].handler)
        return;
    loop->watched[fd].handler = NULL;
    /* Fails when the owner closed it already, which took it out of the epoll set as well. */
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms,
                    loop_timer_handler handler, void *context) {
    loop_timer_clear(loop, timer);
    timer->due_ns = read_clock_ns() + delay_ms * UINT64_C(1000000);
    timer->handler = handler;
    timer->context = context;
    timer->set = true;
    timer->next = loop->timers;
    loop->timers = timer;
}

void loop_timer_clear(struct loop *loop, struct loop_timer *timer) {
    if (!timer->set)
        return;
    struct loop_timer **link = &loop->timers;
    while (*link != timer) {
        assert(*link);
        link = &(*link)->next;
    }
    *link = timer->next;
    timer->set = false;
}

static void run_due_timers(struct loop *loop) {
    /* A handler may clear any timer, so the list is searched anew after each; a timer set by a
     * handler is due later than now_ns and waits for the next pass. */
    for (;;) {
        struct loop_timer *first = NULL;
        for (struct loop_timer *timer = loop->timers; timer; timer = timer->next)
            if (timer->due_ns <= loop->now_ns && (!first || timer->due_ns < first->due_ns))
                first = timer;
        if (!first)
            return;
        loop_timer_clear(loop, first);
        first->handler(first->context);
    }
}

static int wait_ms(const struct loop *loop, uint64_t max_wait_ms) {
    uint64_t now_ns = read_clock_ns();
    uint64_t wait = max_wait_ms;
    for (const struct loop_timer *timer = loop->timers; timer; timer = timer->next) {
        uint64_t left = timer->due_ns > now_ns ? (timer->due_ns - now_ns + 999999) / 1000000 : 0;
        if (left < wait)
            wait = left;
    }
    return wait > 60000 ? 60000 : (int)wait;
}

void loop_run_once(struct loop *loop, uint64_t max_wait_ms) {
    struct epoll_event events[EVENTS_PER_PASS];
    int count = epoll_wait(loop->epoll_fd, events, EVENTS_PER_PASS, wait_ms(loop, max_wait_ms));
    assert(count >= 0 || errno == EINTR);
    loop->now_ns = read_clock_ns();
    for (int i = 0; i < count; i++) {
        int fd = (int)(uint32_t)events[i].data.u64;
        const struct watched *watched = &loop->watched[fd];
        if (watched->handler && watched->generation == events[i].data.u64 >> 32)
            watched->handler(watched->context, fd, events[i].events);
    }
    run_due_timers(loop);
}

uint64_t loop_now_ns(const struct loop *loop) {
    return loop->now_ns;
}
