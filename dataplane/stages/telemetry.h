/* telemetry: the status page as commands of DPDK's telemetry socket, for dpdk-telemetry.py:
 *
 *   /maroon/status  /maroon/counters  /maroon/drops  /maroon/latency  /maroon/ranges
 *
 * One node per process: the library's callbacks have no context. Threads: telemetry_start and
 * telemetry_stop belong to main's thread; commands run on DPDK's own and read the page only.
 * Ownership: the mailbox outlives telemetry_stop. */
#ifndef MAROON_TELEMETRY_H
#define MAROON_TELEMETRY_H

#include "dataplane/stages/mailbox.h"

/* Registers the commands (once per process) and shows this mailbox. Returns 0, MRN_ERR_NO_MEMORY,
 * MRN_ERR_INVALID. Without a socket (EAL started without telemetry) nobody ever asks. */
int telemetry_start(struct mailbox *mailbox);
/* Commands answer nothing from now on. */
void telemetry_stop(void);

#endif
