/* telemetry: the status page as commands of DPDK's telemetry socket, for dpdk-telemetry.py:
 *
 *   /maroon/status  /maroon/counters  /maroon/drops  /maroon/latency  /maroon/ranges
 *
 * One node per process (dataplane/net/telemetry.h); commands read the page only. Main's thread. */
#ifndef MAROON_TELEMETRY_H
#define MAROON_TELEMETRY_H

#include "dataplane/stages/mailbox.h"

/* Shows this mailbox until net_telemetry_stop, which comes before the mailbox is destroyed. Errors
 * of net_telemetry_start. */
int telemetry_start(struct mailbox *mailbox);

#endif
