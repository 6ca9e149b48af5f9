/* What a net's config means, and what it will take: nothing here touches the machine or DPDK's
 * libraries, so that tools can link it alone. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/net/internal.h"
#include <maroon/error.h>

#define PACKETS_DEFAULT 1024
#define QUEUE_DEFAULT 512
#define SLACK_MB 24

void net_text(char *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, NET_TEXT_BYTES, format, arguments);
    va_end(arguments);
}

static const char *const fabric_names[] = {"udp",         "af_packet", "af_xdp", "memif",
                                           "virtio_user", "vhost",     "ring",   "pci"};

const char *net_fabric_name(enum net_fabric fabric) {
    return fabric_names[fabric];
}

int net_fabric_parse(const char *text, enum net_fabric *ret_fabric) {
    for (uint32_t i = 0; i < sizeof fabric_names / sizeof fabric_names[0]; i++)
        if (!strcmp(text, fabric_names[i])) {
            *ret_fabric = (enum net_fabric)i;
            return 0;
        }
    return MRN_ERR_NOT_FOUND;
}

void net_config_default(struct net_config *ret_config, uint16_t udp_port) {
    *ret_config = (struct net_config){.endpoint_count = 1};
    ret_config->endpoints[0] =
        (struct net_endpoint_config){.stage = WIRE_STAGE_INGRESS, .udp_port = udp_port};
}

static bool point_to_point(enum net_fabric fabric) {
    return fabric == NET_FABRIC_MEMIF || fabric == NET_FABRIC_VIRTIO_USER ||
           fabric == NET_FABRIC_VHOST || fabric == NET_FABRIC_RING;
}

static int check_ports(const struct net_config *c, char *ret_error) {
    bool links = point_to_point(c->fabric);
    if (!c->port_count || c->port_count > (links ? NET_PORTS_MAX : 1)) {
        net_text(ret_error, links ? "fabric %s needs one to %d links" : "fabric %s needs %d device",
                 net_fabric_name(c->fabric), links ? NET_PORTS_MAX : 1);
        return MRN_ERR_INVALID;
    }
    uint32_t segments = 0;
    for (uint32_t i = 0; i < c->port_count; i++) {
        segments += !c->ports[i].peer_ipv4;
        if (!c->ports[i].device[0]) {
            net_text(ret_error, "fabric %s: port %u needs a device", net_fabric_name(c->fabric), i);
            return MRN_ERR_INVALID;
        }
    }
    if (segments > 1) {
        net_text(ret_error, "fabric %s: only one port may have no peer's address (a switch)",
                 net_fabric_name(c->fabric));
        return MRN_ERR_INVALID;
    }
    return 0;
}

int net_config_check(const struct net_config *c, char *ret_error) {
    if (!c->endpoint_count || c->endpoint_count > NET_ENDPOINTS_MAX) {
        net_text(ret_error, "%u endpoints: 1 to %d are possible", c->endpoint_count,
                 NET_ENDPOINTS_MAX);
        return MRN_ERR_INVALID;
    }
    for (uint32_t i = 0; i < c->endpoint_count; i++) {
        if (c->endpoints[i].lcore >= NET_LCORES_MAX) {
            net_text(ret_error, "lcore %u: 0 to %d are possible", c->endpoints[i].lcore,
                     NET_LCORES_MAX - 1);
            return MRN_ERR_INVALID;
        }
        if (c->fabric != NET_FABRIC_UDP && !c->endpoints[i].udp_port) {
            net_text(ret_error, "fabric %s needs a UDP port for each endpoint",
                     net_fabric_name(c->fabric));
            return MRN_ERR_INVALID;
        }
    }
    if (c->fabric != NET_FABRIC_UDP && check_ports(c, ret_error))
        return MRN_ERR_INVALID;
    if (c->mtu_bytes > NET_MTU_BYTES || c->prefix_bits > 32) {
        net_text(ret_error, "mtu %u or prefix %u is out of range", c->mtu_bytes, c->prefix_bits);
        return MRN_ERR_INVALID;
    }
    return 0;
}

void net_memory_plan(const struct net_config *c, struct net_memory *m) {
    uint32_t queue = c->queue_count ? c->queue_count : QUEUE_DEFAULT;
    uint32_t held = c->packet_count ? c->packet_count : PACKETS_DEFAULT;
    memset(m, 0, sizeof *m);
    uint32_t ports = c->port_count ? c->port_count : 1, foreign = 0;
    for (uint32_t i = 0; i < c->endpoint_count; i++)
        foreign += c->fabric != NET_FABRIC_UDP && c->endpoints[i].lcore != c->endpoints[0].lcore;
    m->mbuf_count = held + ports * 2 * queue + foreign * 2 * NET_LCORES_RING_COUNT +
                    c->endpoint_count * (2 * NET_BURST_COUNT + NET_FIFO_COUNT);
    m->rings_bytes = (uint64_t)foreign * 2 * NET_LCORES_RING_COUNT * sizeof(struct net_packet);
    m->mbuf_bytes = RTE_MBUF_DEFAULT_BUF_SIZE + sizeof(struct rte_mbuf) + 64 + 128;
    m->pool_bytes =
        (uint64_t)m->mbuf_count * m->mbuf_bytes * 2 /* one in each page under --no-huge */;
    m->other_bytes = c->other_bytes;
    m->slack_bytes = (uint64_t)SLACK_MB << 20;
    m->kernel_bytes = c->fabric == NET_FABRIC_AF_PACKET ? 2 * (uint64_t)queue * 2048 : 0;
    m->memory_mb = (uint32_t)((m->pool_bytes + m->rings_bytes + m->other_bytes + m->slack_bytes +
                               (1 << 20) - 1) >>
                              20);
}
