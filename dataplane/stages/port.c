#include "dataplane/stages/port.h"

#include <stdlib.h>

#include <maroon/error.h>

#define REFUSAL_AGAIN_US UINT64_C(60000000)

int stage_port_open(struct port *p, struct net *net, const struct net_session_config *config) {
    p->endpoint = net_endpoint(net, (enum wire_stage)config->stage);
    if (!p->endpoint)
        return MRN_ERR_INVALID;
    void *memory = aligned_alloc(64, (net_sessions_size(config->capacity) + 63) & ~(size_t)63);
    if (!memory)
        return MRN_ERR_NO_MEMORY;
    p->sessions = net_sessions_init(memory, config);
    return stage_outbox_open(&p->outbox, p->endpoint, p->sessions);
}

void stage_port_close(struct port *p) {
    stage_outbox_close(&p->outbox);
    free(p->sessions);
    p->sessions = NULL;
}

void stage_port_drop(struct port *p, enum wire_drop reason) {
    if (reason < 0 || reason >= WIRE_DROP_COUNT)
        return;
    uint64_t count = atomic_load_explicit(&p->dropped[reason], memory_order_relaxed);
    atomic_store_explicit(&p->dropped[reason], count + 1, memory_order_relaxed);
}

void stage_port_drops(const struct port *p, uint64_t total[WIRE_DROP_COUNT]) {
    struct net_counters c;
    net_endpoint_counters(p->endpoint, &c);
    const uint64_t *session = net_session_drops(p->sessions);
    for (uint32_t d = 0; d < WIRE_DROP_COUNT; d++)
        total[d] +=
            atomic_load_explicit(&p->dropped[d], memory_order_relaxed) + c.drops[d] + session[d];
}

bool stage_port_refusal(struct port *p, uint64_t now_us, struct net_session_refusal *ret_refusal) {
    const struct net_session_refusal *last = net_session_last_refusal(p->sessions);
    if (last->count == p->refusals_seen)
        return false;
    p->refusals_seen = last->count;
    uint64_t *told_us = &p->refusal_told_us[last->drop];
    if (*told_us && now_us - *told_us < REFUSAL_AGAIN_US)
        return false;
    *told_us = now_us;
    *ret_refusal = *last;
    return true;
}

uint32_t stage_port_receive(struct port *p, uint64_t now_us, stage_port_take take, void *context) {
    struct net_packet packets[NET_BURST_COUNT];
    uint32_t count = net_rx(p->endpoint, now_us, packets, NET_BURST_COUNT);
    for (uint32_t i = 0; i < count; i++) {
        struct net_received received;
        if (net_session_receive(p->sessions, packets[i].bytes, packets[i].length_bytes,
                                packets[i].address, now_us, &received) != WIRE_DROP_NONE)
            continue;
        struct wire_frame frame;
        enum wire_drop drop;
        int more;
        while ((more = wire_frame_next(&received.cursor, &frame, &drop)) != 0)
            if (more > 0)
                take(context, &received, &frame);
            else
                stage_port_drop(p, drop);
    }
    net_packets_free(packets, count);
    return count;
}
