#include "dataplane/stages/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "maroon/error.h"

#define CACHE_LINE_BYTES 64

/* One producer, one consumer. `head` counts messages put, `tail` messages taken; both only grow and
 * wrap modulo 2^32, the place is the counter modulo the size.
 *
 * Memory-order edges (ring_put and ring_take):
 *   E1 producer writes the message, then stores head with release; pairs with the consumer's
 *      acquire load of head: a message is read only after it was written.
 *   E2 consumer copies the message out, then stores tail with release; pairs with the producer's
 *      acquire load of tail: a place is overwritten only after it was read. */
struct ring {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t head; /* written by the producer */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t tail; /* written by the consumer */
    _Alignas(CACHE_LINE_BYTES) uint32_t mask;
    size_t message_bytes;
    unsigned char *messages;
};

struct mailbox {
    struct mailbox_status status;
    struct ring up, down;
    struct mailbox_epoch *epoch;
    int wake_fd, down_fd;
    _Atomic bool receiver_sleeps; /* of `down` */
};

static int ring_init(struct ring *ring, uint32_t depth, size_t message_bytes) {
    atomic_init(&ring->head, 0);
    atomic_init(&ring->tail, 0);
    ring->mask = depth - 1;
    ring->message_bytes = message_bytes;
    ring->messages = calloc(depth, message_bytes);
    return ring->messages ? 0 : MRN_ERR_NO_MEMORY;
}

static int ring_put(struct ring *ring, const void *message) {
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed); /* ours */
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire); /* E2 */
    if (head - tail > ring->mask)
        return MRN_ERR_FULL;
    memcpy(ring->messages + (head & ring->mask) * ring->message_bytes, message,
           ring->message_bytes);
    atomic_store_explicit(&ring->head, head + 1, memory_order_release); /* E1 */
    return 0;
}

static int ring_take(struct ring *ring, void *ret_message) {
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed); /* ours */
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_acquire); /* E1 */
    if (head == tail)
        return 0;
    assert(head - tail <= ring->mask + 1);
    memcpy(ret_message, ring->messages + (tail & ring->mask) * ring->message_bytes,
           ring->message_bytes);
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release); /* E2 */
    return 1;
}

struct mailbox *mailbox_create(uint32_t depth) {
    if (depth == 0 || (depth & (depth - 1)) != 0)
        return NULL;
    struct mailbox *mailbox =
        aligned_alloc(CACHE_LINE_BYTES, (sizeof *mailbox + CACHE_LINE_BYTES - 1) /
                                            CACHE_LINE_BYTES * CACHE_LINE_BYTES);
    if (!mailbox)
        return NULL;
    memset(mailbox, 0, sizeof *mailbox);
    mailbox->status.facts.leader = MAILBOX_NODE_NONE;
    mailbox->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mailbox->down_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mailbox->epoch = calloc(1, sizeof *mailbox->epoch);
    if (mailbox->wake_fd < 0 || mailbox->down_fd < 0 || !mailbox->epoch ||
        ring_init(&mailbox->up, depth, sizeof(struct mailbox_up)) ||
        ring_init(&mailbox->down, depth, sizeof(struct mailbox_down))) {
        mailbox_destroy(mailbox);
        return NULL;
    }
    return mailbox;
}

void mailbox_destroy(struct mailbox *mailbox) {
    if (!mailbox)
        return;
    if (mailbox->wake_fd >= 0)
        close(mailbox->wake_fd);
    if (mailbox->down_fd >= 0)
        close(mailbox->down_fd);
    free(mailbox->epoch);
    free(mailbox->up.messages);
    free(mailbox->down.messages);
    free(mailbox);
}

int mailbox_send_up(struct mailbox *mailbox, const struct mailbox_up *message) {
    int error = ring_put(&mailbox->up, message);
    if (error)
        return error;
    /* EAGAIN would mean 2^64 - 2 unread wake-ups: the reader is awake anyway. */
    uint64_t one = 1;
    ssize_t written = write(mailbox->wake_fd, &one, sizeof one);
    assert(written == sizeof one || errno == EAGAIN || errno == EINTR);
    (void)written;
    return 0;
}

int mailbox_receive_down(struct mailbox *mailbox, struct mailbox_down *ret_message) {
    return ring_take(&mailbox->down, ret_message);
}

int mailbox_send_down(struct mailbox *mailbox, const struct mailbox_down *message) {
    int error = ring_put(&mailbox->down, message);
    if (error)
        return error;
    /* Pairs with the fence of mailbox_sleep_begin: either we see the flag, or the sleeper sees the
     * message when it looks once more. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&mailbox->receiver_sleeps, memory_order_relaxed)) {
        uint64_t one = 1;
        ssize_t put = write(mailbox->down_fd, &one, sizeof one);
        (void)put; /* it can only fail when it is readable already */
    }
    return 0;
}

bool mailbox_sleep_begin(struct mailbox *mailbox) {
    atomic_store_explicit(&mailbox->receiver_sleeps, true, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&mailbox->down.head, memory_order_relaxed) ==
           atomic_load_explicit(&mailbox->down.tail, memory_order_relaxed);
}

void mailbox_sleep_end(struct mailbox *mailbox, bool woken) {
    uint64_t wakes;
    atomic_store_explicit(&mailbox->receiver_sleeps, false, memory_order_relaxed);
    if (!woken)
        return;
    ssize_t got = read(mailbox->down_fd, &wakes, sizeof wakes);
    (void)got; /* nothing to read: something else woke it */
}

int mailbox_down_fd(const struct mailbox *mailbox) {
    return mailbox->down_fd;
}

int mailbox_receive_up(struct mailbox *mailbox, struct mailbox_up *ret_message) {
    if (ring_take(&mailbox->up, ret_message))
        return 1;
    /* Empty: clear the wake-up, then look again, since a message may have come in between; its
     * wake-up would be the one just cleared. */
    uint64_t wakes;
    ssize_t got = read(mailbox->wake_fd, &wakes, sizeof wakes);
    (void)got;
    return ring_take(&mailbox->up, ret_message);
}

int mailbox_wake_fd(const struct mailbox *mailbox) {
    return mailbox->wake_fd;
}

struct mailbox_epoch *mailbox_epoch(struct mailbox *mailbox) {
    return mailbox->epoch;
}

struct mailbox_status *mailbox_status(struct mailbox *mailbox) {
    return &mailbox->status;
}

/* Sequence lock. The facts are copied word by word through relaxed atomics, so that a reader that
 * overlaps a writer reads defined (if useless) values and throws them away.
 *
 * Memory-order edges:
 *   E3 writer makes facts_sequence odd, then a release fence, then the words; pairs with the
 *      reader's words, acquire fence, second load of facts_sequence: a reader that saw any new word
 *      sees the sequence changed.
 *   E4 writer's words, then facts_sequence even with release; pairs with the reader's first,
 *      acquire load: a reader that sees the even number sees all the words written before it. */
static_assert(sizeof(struct mailbox_facts) % sizeof(uint64_t) == 0, "facts are copied by words");
static_assert(_Alignof(struct mailbox_facts) >= _Alignof(uint64_t), "facts are copied by words");
enum { FACTS_WORDS = sizeof(struct mailbox_facts) / sizeof(uint64_t) };

/* Words of `facts` on the page, reached as atomics; may_alias since they hold other types. */
typedef uint64_t __attribute__((may_alias)) facts_word;

void mailbox_facts_write(struct mailbox_status *status, const struct mailbox_facts *facts) {
    facts_word *to = (facts_word *)&status->facts;
    const facts_word *from = (const facts_word *)facts;
    uint32_t sequence = atomic_load_explicit(&status->facts_sequence, memory_order_relaxed);
    assert((sequence & 1) == 0); /* one writer */
    atomic_store_explicit(&status->facts_sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* E3 */
    for (int i = 0; i < FACTS_WORDS; i++)
        __atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
    atomic_store_explicit(&status->facts_sequence, sequence + 2, memory_order_release); /* E4 */
}

void mailbox_facts_read(const struct mailbox_status *status, struct mailbox_facts *ret_facts) {
    const facts_word *from = (const facts_word *)&status->facts;
    facts_word *to = (facts_word *)ret_facts;
    for (;;) {
        uint32_t before =
            atomic_load_explicit(&status->facts_sequence, memory_order_acquire); /* E4 */
        if (before & 1)
            continue;
        for (int i = 0; i < FACTS_WORDS; i++)
            to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
        atomic_thread_fence(memory_order_acquire); /* E3 */
        if (atomic_load_explicit(&status->facts_sequence, memory_order_relaxed) == before)
            return;
    }
}
