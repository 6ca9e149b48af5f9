#include <stdio.h>
#include <string.h>

#include "config/config.h"
#include "dataplane/net/from_config.h"
#include <maroon/error.h>
#include <maroon/net.h>

#define SETTINGS_MAX 64
#define SETTING_BYTES 1100
#define OUTSTANDING_MAX 4096

_Static_assert(MRN_NET_TEXT_BYTES >= CONFIG_ERROR_BYTES, "a config's sentence fits");
_Static_assert(MRN_NET_TEXT_BYTES >= NET_TEXT_BYTES, "a net's sentence fits");
_Static_assert(MRN_GATEWAY_NODES_MAX == CONFIG_NODES_MAX, "one limit of nodes");

static int refuse(char *error, const char *text, const char *word) {
    snprintf(error, MRN_NET_TEXT_BYTES, "%s%.80s", text, word);
    return MRN_ERR_INVALID;
}

/* "key=value" as a program's flags. */
static int load(const char *const settings[], struct config *g, char *error) {
    static char flags[SETTINGS_MAX][SETTING_BYTES]; /* once in a process */
    char *arguments[SETTINGS_MAX + 2] = {(char *)(uintptr_t) "maroon-gateway"};
    int count = 0;
    for (; settings && settings[count]; count++) {
        if (count == SETTINGS_MAX)
            return refuse(error, "too many settings, from ", settings[count]);
        if (!strchr(settings[count], '=') || strlen(settings[count]) + 3 > SETTING_BYTES)
            return refuse(error, "not of the form key=value: ", settings[count]);
        snprintf(flags[count], SETTING_BYTES, "--%s", settings[count]);
        arguments[count + 1] = flags[count];
    }
    return config_load(g, CONFIG_GATEWAY, count + 1, arguments, NULL, error);
}

int mrn_net_open(const char *const settings[], struct mrn_gateway_config *ret_config,
                 struct net **ret_net, char *ret_error) {
    static struct config g;
    static struct net_config n;
    int error = load(settings, &g, ret_error);
    if (error)
        return error;
    if (g.action != CONFIG_RUN)
        return refuse(ret_error, "a setting is a question: ", settings[0]);
    struct mrn_gateway_config c = {.node_count = g.node_count,
                                   .pinned_range = g.key_range,
                                   .outstanding_max = OUTSTANDING_MAX,
                                   .transaction_max_bytes = g.max_transaction_bytes,
                                   .request_timeout_us = (uint64_t)g.request_timeout_ms * 1000,
                                   .busy = g.poll == CONFIG_POLL_BUSY};
    for (uint32_t i = 0; i < g.node_count; i++) {
        if (!g.node[i].ipv4 && config_url_resolve(&g.node[i])) {
            (void)refuse(ret_error, "the name of a node is not known: ", g.node[i].host);
            return MRN_ERR_UNAVAILABLE;
        }
        c.nodes[i].ipv4 = g.node[i].ipv4;
        c.nodes[i].port = g.node[i].port;
    }
    net_from_config(&g, &n);
    error = net_start(&n, ret_net, ret_error);
    if (!error)
        *ret_config = c;
    return error;
}

void mrn_net_close(struct net *net) {
    net_stop(net);
    net_eal_stop();
}
