/* Rules between keys, and what is derived from them. */
#include "config/config_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include <maroon/error.h>

#include "proto/wire.h"

_Static_assert(CONFIG_NODES_MAX == WIRE_NODES_MAX, "one limit of nodes");
_Static_assert(CONFIG_RANGE_NONE == WIRE_RANGE_NONE, "one value for no range");

#define PORT_WITHOUT_SOCKETS 30000 /* a gateway's UDP port where no kernel picks one */

__attribute__((format(printf, 2, 3))) static int refuse(char *error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, CONFIG_ERROR_BYTES, format, arguments);
    va_end(arguments);
    return MRN_ERR_INVALID;
}

static bool power_of_two(uint32_t number) {
    return number != 0 && (number & (number - 1)) == 0;
}

static bool point_to_point(enum config_fabric fabric) {
    return fabric == CONFIG_FABRIC_MEMIF || fabric == CONFIG_FABRIC_VIRTIO_USER ||
           fabric == CONFIG_FABRIC_VHOST;
}

static int check_members(struct config *config, char *error) {
    uint32_t n = config->node_count;
    if (config->index >= n)
        return refuse(error,
                      "index = %" PRIu32 ": `nodes` has %" PRIu32
                      " entries, so the greatest index is %" PRIu32,
                      config->index, n, n - 1);
    config->quorum = config->consensus_nodes != 0 ? config->consensus_nodes : n / 2 + 1;
    if (config->quorum > n || 2 * config->quorum <= n)
        return refuse(error,
                      "consensus-nodes = %" PRIu32 " of %" PRIu32 " nodes: allowed are %" PRIu32
                      " to %" PRIu32 " (more than half, so that any two quorums share a node)",
                      config->quorum, n, n / 2 + 1, n);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < i; j++)
            if (config->node[i].port == config->node[j].port &&
                strcmp(config->node[i].host, config->node[j].host) == 0)
                return refuse(error, "nodes: entries %" PRIu32 " and %" PRIu32 " are the same URL",
                              j, i);
    return 0;
}

static int check_etcd(struct config *config, char *error) {
    bool endpoints = config->etcd_endpoints[0] != '\0';
    if (config->arbiter == CONFIG_ARBITER_AUTO)
        config->arbiter = endpoints ? CONFIG_ARBITER_ETCD : CONFIG_ARBITER_EMBEDDED;
    if (config->arbiter == CONFIG_ARBITER_ETCD && !endpoints)
        return refuse(error, "arbiter = etcd needs etcd-endpoints, as in "
                             "--etcd-endpoints http://127.0.0.1:2379");
    if ((config->etcd_certificate_file[0] == '\0') != (config->etcd_key_file[0] == '\0'))
        return refuse(error, "etcd-certificate-file and etcd-key-file are set together or not at "
                             "all");
    return 0;
}

static int check_arbiter(struct config *config, char *error) {
    int code = check_etcd(config, error);
    if (code == 0 && config->arbiter == CONFIG_ARBITER_EMBEDDED && config->node_count > 1)
        return refuse(error,
                      "%" PRIu32 " nodes need etcd to agree on a leader: set etcd-endpoints "
                      "(the embedded arbiter is for a single node)",
                      config->node_count);
    return code;
}

static int check_store(const struct config *config, char *error) {
    const char *url = config->store_url;
    if (*url && strncmp(url, "s3://", 5) != 0 && strncmp(url, "dir:/", 5) != 0)
        return refuse(error, "store-url = %s: neither s3://BUCKET/PREFIX nor dir:/PATH", url);
    if (strchr(config->store_endpoint, ',') || strchr(config->store_metadata_url, ','))
        return refuse(error, "store-endpoint and store-metadata-url: one URL each");
    return 0;
}

static int check_sizes(const struct config *config, char *error) {
    const struct {
        const char *key;
        uint32_t value;
    } powers[] = {{"ranges-max", config->ranges_max}, {"log-epochs", config->log_epochs}};
    for (size_t i = 0; i < sizeof powers / sizeof powers[0]; i++)
        if (!power_of_two(powers[i].value))
            return refuse(error, "%s = %" PRIu32 " is not a power of two", powers[i].key,
                          powers[i].value);
    if (config->log_epochs < 4 * config->epochs_in_flight)
        return refuse(error, "log-epochs = %" PRIu32 ": at least 4 x epochs-in-flight = %" PRIu32,
                      config->log_epochs, 4 * config->epochs_in_flight);
    if (config->ranges_retired_max < config->ranges_max)
        return refuse(error, "ranges-retired-max = %" PRIu32 ": at least ranges-max = %" PRIu32,
                      config->ranges_retired_max, config->ranges_max);
    uint32_t slots = config->epochs_in_flight * config->epoch_cap + config->ranges_max;
    if (config->body_slots < slots)
        return refuse(error,
                      "body-slots = %" PRIu32
                      ": at least epochs-in-flight x epoch-cap + ranges-max = %" PRIu32,
                      config->body_slots, slots);
    uint32_t part = WIRE_BODY_MAX_BYTES - sizeof(struct wire_body_header);
    uint32_t first = part - (uint32_t)sizeof(struct wire_body_extension);
    uint32_t rest =
        config->max_transaction_bytes > first ? config->max_transaction_bytes - first : 0;
    uint32_t parts = 1 + (rest + part - 1) / part;
    if (parts > config->epoch_cap)
        return refuse(error,
                      "max-transaction-bytes = %" PRIu32 " is cut into %" PRIu32
                      " parts, more than epoch-cap = %" PRIu32,
                      config->max_transaction_bytes, parts, config->epoch_cap);
    return 0;
}

static int check_times(struct config *config, char *error) {
    if (config->slice_floor_us == 0)
        config->slice_floor_us = 5 * config->heartbeat_interval_us;
    if (config->slice_floor_us < 2 * config->heartbeat_interval_us)
        return refuse(error, "slice-floor-us = %" PRIu32 ": at least 2 x heartbeat-interval-us",
                      config->slice_floor_us);
    if (config->slice_max_us < config->slice_floor_us)
        return refuse(error, "slice-max-us = %" PRIu32 " is below slice-floor-us = %" PRIu32,
                      config->slice_max_us, config->slice_floor_us);
    if (config->vector_interval_idle_us < config->vector_interval_busy_us)
        return refuse(error,
                      "vector-interval-idle-us = %" PRIu32
                      " is below vector-interval-busy-us = %" PRIu32,
                      config->vector_interval_idle_us, config->vector_interval_busy_us);
    return 0;
}

static int check_fabric(const struct config *config, char *error) {
    const char *fabric = config_fabric_name(config->fabric);
    bool named = config->fabric == CONFIG_FABRIC_AF_PACKET ||
                 config->fabric == CONFIG_FABRIC_AF_XDP || config->fabric == CONFIG_FABRIC_PCI;
    if (!power_of_two(config->queue_packets))
        return refuse(error, "queue-packets = %" PRIu32 " is not a power of two",
                      config->queue_packets);
    if (named && config->interface[0] == '\0')
        return refuse(error, "fabric = %s needs interface: %s", fabric,
                      config->fabric == CONFIG_FABRIC_PCI ? "a PCI address such as 0000:00:05.0"
                                                          : "a Linux interface such as eth1");
    if (point_to_point(config->fabric) && config->link_count == 0)
        return refuse(error, "fabric = %s needs links: one A.B.C.D=SOCKET for each peer", fabric);
    if (!named && config->fabric != CONFIG_FABRIC_UDP && config->own_ipv4 == 0)
        return refuse(error, "fabric = %s needs address: own IPv4 address", fabric);
    if (config->fabric == CONFIG_FABRIC_PCI && config->own_ipv4 == 0)
        return refuse(error, "fabric = pci needs address: the port has none of its own");
    return 0;
}

/* Lists and addresses are valid text here; this only makes them numbers. */
static void derive_addresses(struct config *config) {
    config->prefix_bits = 24;
    if (config->address[0] != '\0')
        (void)config_ipv4_parse(config->address, &config->own_ipv4, &config->prefix_bits);
    else if (config->program == CONFIG_NODE && config->nodes[0] != '\0')
        config->own_ipv4 = config->node[config->index].ipv4;
    if (config->next_hop[0] != '\0')
        (void)config_ipv4_parse(config->next_hop, &config->next_hop_ipv4, NULL);
    if (config->http_address[0] != '\0')
        (void)config_ipv4_parse(config->http_address, &config->http_ipv4, NULL);
    config->link_count =
        (uint32_t)config_links_parse(config->links, config->link, CONFIG_LINKS_MAX);
    config->cpu_count = (uint32_t)config_cpus_parse(config->cpus, config->cpu, CONFIG_CPUS_MAX);
}

static int check_node(struct config *config, char *error) {
    config->node_count = (uint32_t)config_urls_parse(config->nodes, config->node, CONFIG_NODES_MAX);
    if (config->node_count == 0) {
        config->node_count = 1;
        config->node[0] =
            (struct config_url){.ipv4 = UINT32_C(0x7f000001), .port = (uint16_t)config->port};
        strcpy(config->node[0].host, "127.0.0.1");
    }
    int code = check_members(config, error);
    if (code != 0)
        return code;
    for (uint32_t i = 0; i < config->node_count; i++)
        if (config->node[i].port > 45535)
            return refuse(error,
                          "nodes: port %u: at most 45535, nodes use port + 10000 and + 20000",
                          config->node[i].port);
    if (config_source_of(config, "port") == CONFIG_SOURCE_DEFAULT)
        config->port = config->node[config->index].port;
    derive_addresses(config);
    if (config->admin[0] == '\0')
        snprintf(config->admin, sizeof config->admin, "127.0.0.1:%" PRIu32, 9100 + config->index);
    else if (strchr(config->admin, ',') != NULL)
        return refuse(error, "admin = \"%s\": a node has one", config->admin);
    if (config->durability == CONFIG_DURABILITY_AUTO)
        config->durability =
            config->node_count > 1 ? CONFIG_DURABILITY_DISK : CONFIG_DURABILITY_MEMORY;
    if (config->durability == CONFIG_DURABILITY_DISK && config->data_dir[0] == '\0')
        return refuse(error, "durability = disk needs data-dir");
    if ((code = check_arbiter(config, error)) != 0 || (code = check_sizes(config, error)) != 0 ||
        (code = check_store(config, error)) != 0 || (code = check_times(config, error)) != 0)
        return code;
    return check_fabric(config, error);
}

static int check_gateway(struct config *config, char *error) {
    config->node_count =
        (uint32_t)config_urls_parse(config->node_urls, config->node, CONFIG_NODES_MAX);
    if (config->node_count == 0)
        return refuse(error, "node-urls is empty: name the nodes, as in "
                             "--node-urls /ip4/127.0.0.1/udp/3000");
    derive_addresses(config);
    if (config->http_address[0] == '\0')
        return refuse(error, "http-address is empty: 127.0.0.1, or 0.0.0.0 for all");
    if (config->fabric != CONFIG_FABRIC_UDP && config->udp_port == 0)
        config->udp_port = PORT_WITHOUT_SOCKETS;
    return check_fabric(config, error);
}

static int check_ctl(struct config *config, char *error) {
    int code = check_etcd(config, error);
    if (code != 0 || (code = check_store(config, error)) != 0)
        return code;
    config->node_count =
        (uint32_t)config_urls_parse(config->node_urls, config->node, CONFIG_NODES_MAX);
    derive_addresses(config);
    if (config->admin[0] == '\0')
        strcpy(config->admin, "127.0.0.1:9100");
    return 0;
}

/* FNV-1a over names and values: equal configs, equal digests; not a security feature. */
static uint64_t digest(const struct config *config) {
    char text[CONFIG_VALUE_TEXT_BYTES];
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (uint32_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->field == NULL || (key->programs & config->program) == 0)
            continue;
        const char *parts[] = {key->field, "=", config_value_text(config, key, text), "\n"};
        for (size_t part = 0; part < 4; part++)
            for (const char *c = parts[part]; *c != '\0'; c++)
                hash = (hash ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
    }
    return hash;
}

int config_check(struct config *config, char *ret_error) {
    int error = MRN_ERR_INVALID;
    switch (config->program) {
    case CONFIG_NODE: error = check_node(config, ret_error); break;
    case CONFIG_GATEWAY: error = check_gateway(config, ret_error); break;
    case CONFIG_CTL: error = check_ctl(config, ret_error); break;
    }
    if (error != 0)
        return error;
    if (config->program == CONFIG_NODE && strcmp(config->admin, "off") == 0)
        config->admin[0] = '\0';
    config->digest = digest(config);
    return 0;
}
