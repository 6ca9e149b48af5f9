/* loop: file descriptors and timers of one thread, over epoll.
 *
 * Threads: everything of one loop happens on one thread. Ownership: file descriptors and timers are
 * the caller's; a timer must be cleared before its memory goes away. Handlers may set and clear any
 * fd and timer, their own included. */
#ifndef MAROON_LOOP_H
#define MAROON_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct loop;

typedef void (*loop_fd_handler)(void *context, int fd, uint32_t epoll_events);
typedef void (*loop_timer_handler)(void *context);

/* All zero is a timer that is not set. */
struct loop_timer {
    uint64_t due_ns;
    loop_timer_handler handler;
    void *context;
    struct loop_timer *next;
    bool set;
};

/* NULL without memory or file descriptors. */
struct loop *loop_create(void);
void loop_destroy(struct loop *loop);

/* Watches `fd` (EPOLLIN, EPOLLOUT; level-triggered) or changes what is watched. Returns 0,
 * MRN_ERR_NO_MEMORY or MRN_ERR_IO. */
int loop_fd_set(struct loop *loop, int fd, uint32_t epoll_events, loop_fd_handler handler,
                void *context);
/* Before `fd` is closed. Nothing happens when it is not watched. */
void loop_fd_clear(struct loop *loop, int fd);

/* Calls handler once, after delay_ms; replaces an earlier setting. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms,
                    loop_timer_handler handler, void *context);
void loop_timer_clear(struct loop *loop, struct loop_timer *timer);

/* Waits for something to do, at most max_wait_ms, and does it. */
void loop_run_once(struct loop *loop, uint64_t max_wait_ms);

/* CLOCK_MONOTONIC, read once per pass. */
uint64_t loop_now_ns(const struct loop *loop);

#endif
