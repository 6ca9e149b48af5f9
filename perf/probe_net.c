#include "perf/probe_net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "dataplane/net/from_config.h"
#include "perf/probe.h"

struct net *probe_net_open(uint16_t udp_port) {
    static struct config config;
    static char flags[5][256];
    static const char *const keys[] = {"fabric", "interface", "address", "links", "queue-packets"};
    const char *arguments[6] = {"probe"};
    int count = 1;
    char error[CONFIG_ERROR_BYTES], text[NET_TEXT_BYTES];
    for (uint32_t i = 0; i < 5; i++) {
        const char *value = probe_text(keys[i], NULL);
        if (value) {
            snprintf(flags[i], sizeof flags[i], "--%s=%s", keys[i], value);
            arguments[count++] = flags[i];
        }
    }
    if (config_load(&config, CONFIG_GATEWAY, count, (char *const *)(uintptr_t)arguments, NULL,
                    error))
        probe_die("%s", error);
    struct net_config c;
    struct net *net;
    net_from_config(&config, &c);
    c.endpoint_count = 1;
    c.endpoints[0] =
        (struct net_endpoint_config){.stage = WIRE_STAGE_INGRESS, .udp_port = udp_port};
    if (net_start(&c, &net, text))
        probe_die("%s", text);
    net_thread_short_turns(); /* as the nodes' threads */
    return net;
}

void probe_net_close(struct net *net) {
    (void)net_stop(net);
    net_eal_stop();
}

uint32_t probe_net_addresses(const char *option, struct net_address *ret_addresses, uint32_t max) {
    const char *at = probe_text(option, "");
    uint32_t count = 0;
    while (*at && count < max) {
        unsigned a, b, c, d, port;
        int length = 0;
        if (sscanf(at, "%3u.%3u.%3u.%3u:%5u%n", &a, &b, &c, &d, &port, &length) != 5)
            probe_die("--%s: ADDRESS:PORT,... is wanted", option);
        ret_addresses[count++] =
            (struct net_address){.ipv4 = a << 24 | b << 16 | c << 8 | d, .port = (uint16_t)port};
        at += length;
        at += *at == ',';
    }
    return count;
}
