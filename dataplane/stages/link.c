#include "dataplane/stages/link.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <maroon/error.h>
#include <rte_ring.h>
#include <rte_ring_elem.h>
#include <rte_ring_peek_zc.h>

int link_open(struct link *l, const char *name, uint32_t count, uint32_t message_bytes) {
    ssize_t bytes = rte_ring_get_memsize_elem(message_bytes, count);
    memset(l, 0, sizeof *l);
    if (bytes < 0)
        return MRN_ERR_INVALID;
    l->ring = aligned_alloc(64, ((size_t)bytes + 63) & ~(size_t)63);
    l->message_bytes = message_bytes;
    if (!l->ring || rte_ring_init(l->ring, name, count, RING_F_SP_ENQ | RING_F_SC_DEQ)) {
        link_close(l);
        return MRN_ERR_NO_MEMORY;
    }
    return 0;
}

void link_close(struct link *l) {
    free(l->ring);
    l->ring = NULL;
}

bool link_put(struct link *l, const void *message) {
    /* Messages are long: one memcpy beats the ring's copy by words. */
    struct rte_ring_zc_data place;
    if (!rte_ring_enqueue_zc_bulk_elem_start(l->ring, l->message_bytes, 1, &place, NULL))
        return false;
    memcpy(place.ptr1, message, l->message_bytes);
    rte_ring_enqueue_zc_elem_finish(l->ring, 1);
    if (!l->to)
        return true;
    /* Pairs with the fence of link_sleep_begin: either we see the flag, or the sleeper sees the
     * message when it looks once more. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&l->to->asleep, memory_order_relaxed)) {
        uint64_t one = 1;
        ssize_t put = write(l->to->wake_fd, &one, sizeof one);
        (void)put; /* it can only fail when it is readable already */
    }
    return true;
}

uint32_t link_take_some(struct link *l, void *ret_messages, uint32_t max) {
    struct rte_ring_zc_data places;
    uint32_t count =
        rte_ring_dequeue_zc_burst_elem_start(l->ring, l->message_bytes, max, &places, NULL);
    if (!count)
        return 0;
    size_t first = (size_t)places.n1 * l->message_bytes;
    memcpy(ret_messages, places.ptr1, first);
    if (count > places.n1)
        memcpy((uint8_t *)ret_messages + first, places.ptr2,
               (size_t)(count - places.n1) * l->message_bytes);
    rte_ring_dequeue_zc_elem_finish(l->ring, count);
    return count;
}

uint32_t link_count(const struct link *l) {
    return rte_ring_count(l->ring);
}

uint32_t link_room(const struct link *l) {
    return rte_ring_free_count(l->ring);
}

void link_sleep_begin(struct link_thread *t) {
    atomic_store_explicit(&t->asleep, true, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

void link_sleep_end(struct link_thread *t) {
    uint64_t count;
    atomic_store_explicit(&t->asleep, false, memory_order_relaxed);
    ssize_t got = read(t->wake_fd, &count, sizeof count);
    (void)got; /* nothing to read: nobody woke it */
}
