/* link: messages of one fixed size from one stage to another: an rte_ring with a single producer
 * and a single consumer, and the waking of a thread that sleeps.
 *
 * The same whether the two stages share a thread or not. Threads: put by the sending stage's
 * thread, take by the receiving one's. Ownership: messages are copied. Errors: a full link takes
 * nothing; who sends says what that means. */
#ifndef MAROON_LINK_H
#define MAROON_LINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <rte_ring.h>

/* A thread that runs stages. It sleeps only between link_sleep_begin and link_sleep_end. */
struct link_thread {
    int wake_fd;
    _Atomic bool asleep;
};

struct link {
    struct rte_ring *ring;
    uint32_t message_bytes;
    struct link_thread *to;
};

/* Room for `count` - 1 messages (power of two) of `message_bytes` (a multiple of 4). Returns 0 or
 * MRN_ERR_NO_MEMORY. `to` may change until the threads run. */
int link_open(struct link *link, const char *name, uint32_t count, uint32_t message_bytes);
void link_close(struct link *link);

/* Copies the message in and wakes the receiver if it sleeps; false when the link is full. */
bool link_put(struct link *link, const void *message);

/* Takes the oldest messages, at most `max`; returns how many. Nearly always none: every pass looks
 * at every link. */
uint32_t link_take_some(struct link *link, void *ret_messages, uint32_t max);
static inline uint32_t link_take(struct link *link, void *ret_messages, uint32_t max) {
    return rte_ring_empty(link->ring) ? 0 : link_take_some(link, ret_messages, max);
}

uint32_t link_count(const struct link *link);
uint32_t link_room(const struct link *link);

/* Before a sleep: says so, that senders wake. The caller then looks once more whether something
 * lies in its links (a message put before the flag was seen wakes nobody). */
void link_sleep_begin(struct link_thread *thread);
void link_sleep_end(struct link_thread *thread);

#endif
