/* Endpoints on several threads, and sleeping.
 *
 * The ports belong to the thread of the first endpoint. It hands packets to the endpoints of other
 * threads, and sends theirs, through two rings for each. A thread that puts something into a ring
 * wakes the taker if that sleeps: E1 the taker sets `asleep`, then looks into its rings; E2 the
 * giver puts, then looks at `asleep`; with a full fence in between on both sides one of them sees
 * the other. Kernel sockets need none of this: each endpoint has its own. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/net/internal.h"
#include <maroon/error.h>
#include <rte_ring.h>
#include <rte_ring_elem.h>

#define SLEEP_LEAST_US 50u /* fabrics without something to poll */
#define SLEEP_MOST_US 1000u

static_assert(sizeof(struct net_packet) % 4 == 0, "an element of a ring");

static uint8_t owner(const struct net *net) {
    return net->config.endpoints[0].lcore;
}

static bool net_lcore_foreign(const struct net_endpoint *e) {
    return e->net->config.fabric != NET_FABRIC_UDP && e->config.lcore != owner(e->net);
}

bool net_on_kernel_interface(const struct net *net) {
    return net->config.fabric == NET_FABRIC_AF_PACKET || net->config.fabric == NET_FABRIC_AF_XDP;
}

static struct rte_ring *ring_make(void) {
    ssize_t bytes = rte_ring_get_memsize_elem(sizeof(struct net_packet), NET_LCORES_RING_COUNT);
    struct rte_ring *ring = bytes < 0 ? NULL : aligned_alloc(64, ((size_t)bytes + 63) & ~63ul);
    if (ring && rte_ring_init(ring, "net", NET_LCORES_RING_COUNT, RING_F_SP_ENQ | RING_F_SC_DEQ)) {
        free(ring);
        return NULL;
    }
    return ring;
}

int net_lcores_open(struct net *net) {
    for (uint32_t i = 0; i < NET_LCORES_MAX; i++)
        net->lcores[i].wake_fd = -1;
    for (uint32_t i = 0; i < net->config.endpoint_count; i++) {
        struct net_endpoint *e = &net->endpoints[i];
        if (!net_lcore_foreign(e))
            continue;
        e->rx_ring = ring_make();
        e->tx_ring = ring_make();
        if (!e->rx_ring || !e->tx_ring)
            return MRN_ERR_NO_MEMORY;
        const uint8_t both[] = {owner(net), e->config.lcore};
        for (uint32_t k = 0; k < 2; k++)
            if (net->lcores[both[k]].wake_fd < 0 &&
                (net->lcores[both[k]].wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
                return MRN_ERR_IO;
    }
    return 0;
}

static void ring_free(struct rte_ring *ring) {
    struct net_packet packet;
    while (ring && rte_ring_sc_dequeue_elem(ring, &packet, sizeof packet) == 0)
        net_packets_free(&packet, 1);
    free(ring);
}

void net_lcores_close(struct net *net) {
    for (uint32_t i = 0; i < NET_ENDPOINTS_MAX; i++) {
        ring_free(net->endpoints[i].rx_ring);
        ring_free(net->endpoints[i].tx_ring);
    }
    for (uint32_t i = 0; i < NET_LCORES_MAX; i++)
        if (net->lcores[i].wake_fd > 0)
            close(net->lcores[i].wake_fd);
}

static void wake(struct net_lcore *lcore) {
    atomic_thread_fence(memory_order_seq_cst); /* E2 */
    if (!atomic_load_explicit(&lcore->asleep, memory_order_relaxed))
        return;
    uint64_t one = 1;
    ssize_t put = write(lcore->wake_fd, &one, sizeof one);
    (void)put; /* fails only when it is readable already */
}

bool net_lcores_hand_in(struct net_endpoint *to, const struct net_packet *packet) {
    if (rte_ring_sp_enqueue_elem(to->rx_ring, (void *)(uintptr_t)packet, sizeof *packet))
        return false;
    wake(&to->net->lcores[to->config.lcore]);
    return true;
}

uint32_t net_lcores_rx(struct net_endpoint *e, struct net_packet *packets, uint32_t max_count) {
    return rte_ring_sc_dequeue_burst_elem(e->rx_ring, packets, sizeof *packets, max_count, NULL);
}

void net_lcores_flush(struct net_endpoint *e) {
    uint32_t put =
        rte_ring_sp_enqueue_burst_elem(e->tx_ring, e->tx, sizeof e->tx[0], e->tx_count, NULL);
    for (uint32_t i = 0; i < put; i++)
        e->counters.tx_bytes += e->tx[i].length_bytes;
    e->counters.tx_packets += put;
    e->counters.tx_full += e->tx_count - put;
    net_packets_free(e->tx + put, e->tx_count - put);
    wake(&e->net->lcores[owner(e->net)]);
}

void net_lcores_send(struct net *net) {
    struct net_packet packets[NET_BURST_COUNT];
    for (uint32_t i = 1; i < net->config.endpoint_count; i++) {
        struct net_endpoint *e = &net->endpoints[i];
        uint32_t count;
        while (e->tx_ring && (count = rte_ring_sc_dequeue_burst_elem(
                                  e->tx_ring, packets, sizeof packets[0], NET_BURST_COUNT, NULL)))
            net_ethdev_send(net, e, packets, count);
    }
}

/* ---- sleeping ---- */

/* Something came since the caller last looked. The owner looks at its ports, too. */
static bool waiting(struct net *net, uint32_t lcore) {
    bool any = false, owns = net->config.fabric != NET_FABRIC_UDP && lcore == owner(net);
    if (owns)
        net_ethdev_poll(net);
    for (uint32_t i = 0; i < net->config.endpoint_count; i++) {
        const struct net_endpoint *e = &net->endpoints[i];
        if (e->config.lcore == lcore)
            any |= e->fifo_count || (e->rx_ring && rte_ring_count(e->rx_ring));
        any |= owns && e->tx_ring && rte_ring_count(e->tx_ring);
    }
    return any;
}

/* How long a thread may sleep that has nothing to poll for its packets. */
static uint32_t blind_sleep_us(struct net *net, struct net_lcore *me, uint32_t lcore,
                               uint32_t timeout_us) {
    if (net->config.fabric == NET_FABRIC_UDP || net->config.fabric == NET_FABRIC_AF_PACKET ||
        lcore != owner(net))
        return timeout_us;
    me->sleep_us = me->sleep_us < SLEEP_LEAST_US      ? SLEEP_LEAST_US
                   : me->sleep_us < SLEEP_MOST_US / 2 ? 2 * me->sleep_us
                                                      : SLEEP_MOST_US;
    return me->sleep_us < timeout_us ? me->sleep_us : timeout_us;
}

bool net_wait(struct net *net, uint32_t lcore, uint32_t timeout_us, const int *wake_fds,
              uint32_t wake_fd_count) {
    struct pollfd fds[NET_ENDPOINTS_MAX + 9];
    struct net_endpoint *of[NET_ENDPOINTS_MAX];
    struct net_lcore *me = &net->lcores[lcore < NET_LCORES_MAX ? lcore : 0];
    bool guards = net_on_kernel_interface(net);
    nfds_t sockets = 0, count;
    struct net_counters *counters = &net->endpoints[0].counters;
    for (uint32_t i = 0; i < net->config.endpoint_count; i++) {
        struct net_endpoint *e = &net->endpoints[i];
        bool ours = e->config.lcore == lcore;
        if (ours && counters == &net->endpoints[0].counters)
            counters = &e->counters;
        /* The owner of the ports listens for all. */
        if (e->fd < 0 || !(guards ? lcore == owner(net) : ours))
            continue;
        if (guards)
            net_guard_rearm(e); /* and then look at the ports: what came until now lies there */
        of[sockets] = e;
        fds[sockets++] = (struct pollfd){.fd = e->fd, .events = POLLIN};
    }
    count = sockets;
    for (uint32_t i = 0; i < wake_fd_count && i < 8; i++)
        fds[count++] = (struct pollfd){.fd = wake_fds[i], .events = POLLIN};
    if (me->wake_fd >= 0) {
        fds[count++] = (struct pollfd){.fd = me->wake_fd, .events = POLLIN};
        atomic_store_explicit(&me->asleep, true, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst); /* E1 */
    }
    bool came = waiting(net, lcore);
    uint32_t us = blind_sleep_us(net, me, lcore, timeout_us);
    struct timespec timeout = {us / 1000000, (long)(us % 1000000) * 1000};
    int ready = came ? 1 : ppoll(fds, count, &timeout, NULL);
    if (me->wake_fd >= 0) {
        uint64_t total;
        atomic_store_explicit(&me->asleep, false, memory_order_relaxed);
        ssize_t got = read(me->wake_fd, &total, sizeof total);
        (void)got; /* nothing, when nobody woke us */
    }
    for (nfds_t i = 0; !guards && i < sockets; i++)
        of[i]->quiet = !fds[i].revents;
    if (ready > 0)
        me->sleep_us = 0;
    counters->waits++;
    counters->wakes += ready > 0;
    return ready > 0;
}
