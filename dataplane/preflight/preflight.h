/* preflight: is this machine prepared for this config? `maroon-node --preflight`.
 *
 * One line for each subject: `ok`, `warn` (it runs, with worse latency) or `fail` (it will not
 * start, or not as configured), what was seen, and for the last two what to do. Reads /sys and
 * /proc only, under a root for tests; changes nothing. Threads: one. Errors: a file that is not
 * there is said in the line of its subject. */
#ifndef MAROON_PREFLIGHT_H
#define MAROON_PREFLIGHT_H

#include <stdio.h>

#include "config/config.h"
#include "hugepages/system.h"

struct preflight_counts {
    unsigned ok, warn, fail;
};

/* Writes the lines and a last one with the counts. */
struct preflight_counts preflight(const struct config *config, const struct system *system,
                                  FILE *out);

#endif
