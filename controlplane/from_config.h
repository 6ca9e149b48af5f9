/* from_config: what the configuration keys say about the control plane and its etcd, for every
 * program that talks to them. Pure.
 *
 * Ownership: results point into `config`, which must outlive whatever is made of them. */
#ifndef MAROON_CONTROLPLANE_FROM_CONFIG_H
#define MAROON_CONTROLPLANE_FROM_CONFIG_H

#include "config/config.h"
#include "controlplane/control.h"
#include "controlplane/etcd.h"

/* Whether there is an etcd: `arbiter` as config_load resolved it. */
bool etcd_from_config(const struct config *config, struct etcd_config *ret_etcd);

/* Cluster, arbiter and etcd; the rest of *ret_control is zero. For maroonctl. */
void control_cluster_from_config(const struct config *config, struct control_config *ret_control);

/* All that a node's keys say; applications, probe, failed and interrupted are left to the caller.
 */
void control_from_config(const struct config *config, struct control_config *ret_control);

#endif
