/* net_telemetry: commands of DPDK's telemetry socket that show one thing of this process, for
 * dpdk-telemetry.py.
 *
 * The library's callbacks have no context and commands cannot be taken back, so there is one table
 * per process, and what it shows can be taken away. Threads: start and stop belong to main's
 * thread; commands run on DPDK's own, one at a time. Ownership: table and `shown` stay the
 * caller's; the table for ever, `shown` until net_telemetry_stop. */
#ifndef MAROON_NET_TELEMETRY_H
#define MAROON_NET_TELEMETRY_H

#include <rte_telemetry.h>
#include <stdint.h>

struct net_telemetry_command {
    const char *command, *help;
    /* Adds to the dictionary *out. 0, or not 0: the command answers nothing. */
    int (*fill)(const void *shown, struct rte_tel_data *out);
};

/* Registers the commands, once per process. Returns 0, MRN_ERR_NO_MEMORY, MRN_ERR_INVALID. Without
 * a socket (EAL started without telemetry) nobody ever asks. */
int net_telemetry_start(const struct net_telemetry_command *commands, uint32_t count,
                        const void *shown);
/* Commands answer nothing from now on. */
void net_telemetry_stop(void);

#endif
