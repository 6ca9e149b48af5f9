/* net_sessions: the table of peers (session.h). Receiving and HELLO are in session_receive.c. */
#include "dataplane/net/session_private.h"

#include <string.h>

static uint32_t index_slots(uint32_t capacity) {
    uint32_t slots = 64;
    while (slots < 2 * (capacity + WIRE_NODES_MAX))
        slots *= 2;
    return slots;
}

size_t net_sessions_size(uint32_t capacity) {
    if (capacity == 0)
        capacity = NET_SESSIONS_DEFAULT_COUNT;
    return sizeof(struct net_sessions) + (capacity + WIRE_NODES_MAX) * sizeof(struct net_peer) +
           index_slots(capacity) * sizeof(uint32_t);
}

struct net_sessions *net_sessions_init(void *memory, const struct net_session_config *config) {
    assert(config->session != 0);
    assert(config->role == WIRE_ROLE_NODE || config->role == WIRE_ROLE_GATEWAY);
    assert(config->role == WIRE_ROLE_GATEWAY ||
           (config->index < WIRE_NODES_MAX && config->configuration_id != 0));
    assert(config->stage < WIRE_STAGE_COUNT);
    struct net_sessions *s = memory;
    uint32_t capacity = config->capacity ? config->capacity : NET_SESSIONS_DEFAULT_COUNT;
    memset(memory, 0, net_sessions_size(capacity));
    s->own = *config;
    s->own.capacity = capacity;
    if (s->own.gateway_timeout_us == 0)
        s->own.gateway_timeout_us = NET_GATEWAY_TIMEOUT_DEFAULT_US;
    s->refusal.drop = WIRE_DROP_NONE;
    s->peer_max = capacity + WIRE_NODES_MAX;
    s->peers = (struct net_peer *)(s + 1);
    s->slots = (uint32_t *)(s->peers + s->peer_max);
    s->slot_mask = index_slots(capacity) - 1;
    s->oldest = s->newest = NONE;
    s->free = NONE;
    for (uint32_t i = s->peer_max; i-- > WIRE_NODES_MAX;) {
        s->peers[i].newer = s->free;
        s->free = i;
    }
    return s;
}

/* ---- the index: open addressing, linear probing, backward-shift deletion ---- */

static uint32_t slot_of(const struct net_sessions *s, uint32_t session) {
    return (session * UINT32_C(2654435769)) >> 7 & s->slot_mask;
}

struct net_peer *session_find(struct net_sessions *s, uint32_t session) {
    for (uint32_t i = slot_of(s, session); s->slots[i]; i = (i + 1) & s->slot_mask)
        if (s->peers[s->slots[i] - 1].session == session)
            return &s->peers[s->slots[i] - 1];
    return NULL;
}

static void index_remove(struct net_sessions *s, uint32_t session) {
    uint32_t i = slot_of(s, session);
    while (s->slots[i] && s->peers[s->slots[i] - 1].session != session)
        i = (i + 1) & s->slot_mask;
    assert(s->slots[i]);
    for (uint32_t j = (i + 1) & s->slot_mask; s->slots[j]; j = (j + 1) & s->slot_mask) {
        uint32_t home = slot_of(s, s->peers[s->slots[j] - 1].session);
        if (((j - home) & s->slot_mask) >= ((j - i) & s->slot_mask)) {
            s->slots[i] = s->slots[j];
            i = j;
        }
    }
    s->slots[i] = 0;
}

void session_set(struct net_sessions *s, struct net_peer *peer, uint32_t session) {
    if (peer->session)
        index_remove(s, peer->session);
    peer->session = session;
    if (session == 0)
        return;
    uint32_t i = slot_of(s, session);
    while (s->slots[i])
        i = (i + 1) & s->slot_mask;
    s->slots[i] = (uint32_t)(peer - s->peers) + 1;
}

/* ---- gateways: list by heard_us ---- */

static void list_remove(struct net_sessions *s, struct net_peer *peer) {
    *(peer->older == NONE ? &s->oldest : &s->peers[peer->older].newer) = peer->newer;
    *(peer->newer == NONE ? &s->newest : &s->peers[peer->newer].older) = peer->older;
}

static void list_append(struct net_sessions *s, struct net_peer *peer) {
    uint32_t number = (uint32_t)(peer - s->peers);
    peer->older = s->newest;
    peer->newer = NONE;
    *(s->newest == NONE ? &s->oldest : &s->peers[s->newest].newer) = number;
    s->newest = number;
}

void session_heard(struct net_sessions *s, struct net_peer *peer, uint64_t now_us) {
    peer->heard_us = now_us;
    if (peer->role == WIRE_ROLE_GATEWAY) {
        list_remove(s, peer);
        list_append(s, peer);
    }
}

static void gateway_release(struct net_sessions *s, struct net_peer *peer) {
    session_set(s, peer, 0);
    list_remove(s, peer);
    uint32_t generation = peer->generation + 1;
    memset(peer, 0, sizeof(*peer));
    peer->generation = generation;
    peer->newer = s->free;
    s->free = (uint32_t)(peer - s->peers);
    s->gateway_count--;
}

struct net_peer *session_gateway_new(struct net_sessions *s, uint64_t now_us) {
    if (s->free == NONE && s->oldest != NONE &&
        now_us - s->peers[s->oldest].heard_us >= s->own.gateway_timeout_us)
        gateway_release(s, &s->peers[s->oldest]);
    if (s->free == NONE)
        return NULL;
    struct net_peer *peer = &s->peers[s->free];
    s->free = peer->newer;
    peer->role = WIRE_ROLE_GATEWAY;
    peer->heard_us = now_us;
    list_append(s, peer);
    s->gateway_count++;
    return peer;
}

/* ---- nodes ---- */

struct net_peer *session_node_at(struct net_sessions *s, struct net_address address) {
    for (uint32_t i = 0; i < s->node_count; i++)
        if (net_address_equal(s->peers[i].address, address))
            return &s->peers[i];
    return NULL;
}

struct net_peer *net_session_add_node(struct net_sessions *s, uint8_t index,
                                      struct net_address address) {
    if (s->node_count == WIRE_NODES_MAX || session_node_at(s, address))
        return NULL;
    struct net_peer *peer = &s->peers[s->node_count++];
    peer->role = WIRE_ROLE_NODE;
    peer->index = index;
    peer->stage = s->own.role == WIRE_ROLE_GATEWAY ? WIRE_STAGE_INGRESS : s->own.stage;
    peer->address = address;
    peer->ranges[0] = peer->ranges[1] = WIRE_RANGE_NONE;
    peer->hello_delay_us = NET_HELLO_MIN_US;
    s->quiet_until_us = 0;
    return peer;
}

void session_renew(struct net_sessions *s, struct net_peer *peer) {
    session_set(s, peer, 0);
    peer->knows_us = false;
    peer->generation++;
    peer->user = NULL;
    peer->user_tag = 0;
    peer->hello_at_us = 0;
    peer->hello_delay_us = NET_HELLO_MIN_US;
    s->quiet_until_us = 0;
}

static void introduce_again(struct net_sessions *s) {
    s->quiet_until_us = 0;
    for (uint32_t i = 0; i < s->node_count; i++) {
        s->peers[i].knows_us = false;
        s->peers[i].hello_at_us = 0;
        s->peers[i].hello_delay_us = NET_HELLO_MIN_US;
    }
}

void net_session_set_owner(struct net_sessions *s, uint32_t session, uint64_t owner) {
    assert(s->own.role == WIRE_ROLE_GATEWAY && session);
    s->own.session = session;
    s->own.incarnation = owner;
    introduce_again(s);
}

void net_session_set_ranges(struct net_sessions *s, const uint64_t ranges[2]) {
    s->own.ranges[0] = ranges[0];
    s->own.ranges[1] = ranges[1];
    introduce_again(s);
}

void net_session_set_configuration(struct net_sessions *s, uint64_t configuration_id) {
    s->own.configuration_id = configuration_id;
    for (uint32_t i = 0; i < s->node_count; i++)
        session_renew(s, &s->peers[i]);
    while (s->oldest != NONE)
        gateway_release(s, &s->peers[s->oldest]);
}

/* ---- lookups ---- */

struct net_peer *net_session_node(struct net_sessions *s, uint8_t index) {
    for (uint32_t i = 0; i < s->node_count; i++)
        if (s->peers[i].index == index)
            return &s->peers[i];
    return NULL;
}
uint32_t net_session_peer_max(const struct net_sessions *s) {
    return s->peer_max;
}
struct net_peer *net_session_peer(struct net_sessions *s, uint32_t number) {
    assert(number < s->peer_max);
    return &s->peers[number];
}
uint32_t net_session_number(const struct net_sessions *s, const struct net_peer *peer) {
    return (uint32_t)(peer - s->peers);
}
uint64_t net_session_configuration(const struct net_sessions *s) {
    return s->own.configuration_id;
}
const uint64_t *net_session_drops(const struct net_sessions *s) {
    return s->drops;
}
const struct net_session_refusal *net_session_last_refusal(const struct net_sessions *s) {
    return &s->refusal;
}

void net_sessions_check(const struct net_sessions *s) {
    uint32_t used = 0, listed = 0, free = 0;
    uint64_t heard_us = 0;
    for (uint32_t i = 0; i < s->peer_max; i++) {
        used += i >= WIRE_NODES_MAX && s->peers[i].role != 0;
        if (s->peers[i].session) /* I1 */
            assert(session_find((struct net_sessions *)s, s->peers[i].session) == &s->peers[i]);
    }
    for (uint32_t i = s->oldest; i != NONE; i = s->peers[i].newer, listed++) { /* I2 */
        assert(s->peers[i].heard_us >= heard_us);
        heard_us = s->peers[i].heard_us;
    }
    for (uint32_t i = s->free; i != NONE; i = s->peers[i].newer)
        free++;
    assert(used == listed && used == s->gateway_count); /* I3 */
    assert(used + free == s->own.capacity);
}
