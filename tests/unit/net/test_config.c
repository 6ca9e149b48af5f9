/* What a net refuses before it touches the machine, and that its memory plan adds up. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/net/net.h"
#include <maroon/error.h>

static struct net_config linked(enum net_fabric fabric) {
    struct net_config c;
    net_config_default(&c, 3000);
    c.fabric = fabric;
    c.ipv4 = 0x0a000001;
    c.port_count = 2;
    for (uint32_t i = 0; i < 2; i++) {
        snprintf(c.ports[i].device, sizeof c.ports[i].device, "/run/link%u", i);
        c.ports[i].peer_ipv4 = 0x0a000002 + i;
    }
    return c;
}

static void refused(const struct net_config *c, const char *word) {
    char text[NET_TEXT_BYTES] = "";
    assert_int_equal(net_config_check(c, text), MRN_ERR_INVALID);
    assert_non_null(strstr(text, word));
}

static void refuses_with_a_sentence(void **state) {
    (void)state;
    char text[NET_TEXT_BYTES];
    struct net_config c = linked(NET_FABRIC_MEMIF);
    assert_int_equal(net_config_check(&c, text), 0);
    c.ports[1].peer_ipv4 = 0; /* a switch besides a peer */
    assert_int_equal(net_config_check(&c, text), 0);
    c.ports[0].peer_ipv4 = 0;
    refused(&c, "only one port");
    c = linked(NET_FABRIC_AF_PACKET);
    refused(&c, "1 device");
    c = linked(NET_FABRIC_VHOST);
    c.port_count = 0;
    refused(&c, "links");
    c = linked(NET_FABRIC_VHOST);
    c.ports[1].device[0] = 0;
    refused(&c, "needs a device");
    c = linked(NET_FABRIC_RING);
    c.endpoints[0].udp_port = 0;
    refused(&c, "UDP port");
    c = linked(NET_FABRIC_RING);
    c.endpoints[0].lcore = NET_LCORES_MAX;
    refused(&c, "lcore");
    c = linked(NET_FABRIC_RING);
    c.endpoint_count = 0;
    refused(&c, "endpoints");
    c = linked(NET_FABRIC_RING);
    c.mtu_bytes = 9000;
    refused(&c, "mtu");
}

static void names_every_fabric(void **state) {
    (void)state;
    for (uint32_t i = 0; i <= NET_FABRIC_PCI; i++) {
        enum net_fabric fabric;
        assert_int_equal(net_fabric_parse(net_fabric_name((enum net_fabric)i), &fabric), 0);
        assert_int_equal(fabric, i);
    }
    enum net_fabric fabric = NET_FABRIC_VHOST;
    assert_int_equal(net_fabric_parse("token_ring", &fabric), MRN_ERR_NOT_FOUND);
    assert_int_equal(fabric, NET_FABRIC_VHOST);
}

static void the_plan_adds_up(void **state) {
    (void)state;
    struct net_config c = linked(NET_FABRIC_MEMIF);
    struct net_memory one, more;
    net_memory_plan(&c, &one);
    assert_true(one.mbuf_count >= 1024 + 2 * 2 * 512); /* held, and what the ports' queues keep */
    assert_true(one.pool_bytes >= (uint64_t)one.mbuf_count * one.mbuf_bytes);
    uint64_t sum = one.pool_bytes + one.rings_bytes + one.other_bytes + one.slack_bytes;
    assert_true(((uint64_t)one.memory_mb << 20) >= sum);
    assert_true(((uint64_t)one.memory_mb << 20) < sum + (1 << 20));
    c.other_bytes = 10 << 20;
    net_memory_plan(&c, &more);
    assert_int_equal(more.memory_mb, one.memory_mb + 10);
    c.other_bytes = 0;
    c.port_count = 1;
    net_memory_plan(&c, &more);
    assert_int_equal(more.mbuf_count, one.mbuf_count - 2 * 512);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_with_a_sentence),
        cmocka_unit_test(names_every_fabric),
        cmocka_unit_test(the_plan_adds_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
