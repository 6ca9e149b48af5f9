/* from_config: what the configuration keys say about the fabric, for every program that has a net.
 */
#ifndef MAROON_NET_FROM_CONFIG_H
#define MAROON_NET_FROM_CONFIG_H

#include "config/config.h"
#include "dataplane/net/net.h"

/* Sets everything of *ret_net: a node's three endpoints, or the one of another program. Pure;
 * net_config_check comes after. */
void net_from_config(const struct config *config, struct net_config *ret_net);

#endif
