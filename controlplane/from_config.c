#include "controlplane/from_config.h"

#include <stdio.h>
#include <string.h>

#include "controlplane/store/from_config.h"

bool etcd_from_config(const struct config *config, struct etcd_config *ret_etcd) {
    if (config->arbiter != CONFIG_ARBITER_ETCD)
        return false;
    *ret_etcd = (struct etcd_config){
        .endpoints = config->etcd_endpoints,
        .ca_file = config->etcd_ca_file,
        .certificate_file = config->etcd_certificate_file,
        .key_file = config->etcd_key_file,
        .user = config->etcd_user,
        .password = config->etcd_password,
    };
    return true;
}

void control_cluster_from_config(const struct config *config, struct control_config *ret_control) {
    memset(ret_control, 0, sizeof *ret_control);
    snprintf(ret_control->cluster, sizeof ret_control->cluster, "%s", config->cluster);
    ret_control->arbiter = etcd_from_config(config, &ret_control->etcd) ? CONTROL_ARBITER_ETCD
                                                                        : CONTROL_ARBITER_EMBEDDED;
}

void control_from_config(const struct config *config, struct control_config *ret_control) {
    struct control_config *c = ret_control;
    control_cluster_from_config(config, c);
    c->node_index = (uint8_t)config->index;
    c->node_count = (uint8_t)config->node_count;
    c->quorum = (uint8_t)config->quorum;
    c->durable = config->durability == CONFIG_DURABILITY_DISK;
#define CONTROL_LIMIT(field, name, key) c->limits.field = config->field;
#include "controlplane/control_limits.def"
#undef CONTROL_LIMIT
    snprintf(c->data_dir, sizeof c->data_dir, "%s", config->data_dir);
    c->lease_ttl_s = config->lease_ttl_s;
    c->range_ttl_s = config->range_ttl_s;
    c->publish_tick_us = config->publish_tick_us;
    const struct config_url *own = &config->node[config->index];
    snprintf(c->address, sizeof c->address, "%u.%u.%u.%u:%u", own->ipv4 >> 24,
             own->ipv4 >> 16 & 255, own->ipv4 >> 8 & 255, own->ipv4 & 255, own->port);
    snprintf(c->admin_listen, sizeof c->admin_listen, "%s", config->admin);
    snprintf(c->admin_advertise, sizeof c->admin_advertise, "%s", config->admin_advertise);
    (void)store_from_config(config, &c->store);
    c->dump_key_file = config->dump_key_file;
    c->dump_interval_s = config->dump_interval_s;
}
