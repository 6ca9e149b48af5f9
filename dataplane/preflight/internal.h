/* preflight's inside: preflight.c (CPUs, clock), resources.c (port, memory, limits). */
#ifndef MAROON_PREFLIGHT_INTERNAL_H
#define MAROON_PREFLIGHT_INTERNAL_H

#include "dataplane/preflight/preflight.h"

enum preflight_level { PREFLIGHT_OK = 0, PREFLIGHT_WARN, PREFLIGHT_FAIL };

struct preflight {
    const struct config *config;
    const struct system *system;
    FILE *out;
    struct preflight_counts counts;
};

/* One line, counted. */
void preflight_say(struct preflight *preflight, enum preflight_level level, const char *subject,
                   const char *format, ...) __attribute__((format(printf, 4, 5)));

void preflight_port(struct preflight *preflight);   /* is there, driver, rights, NUMA node */
void preflight_memory(struct preflight *preflight); /* hugepages, ordinary memory */
void preflight_limits(struct preflight *preflight); /* locked memory, open files */

#endif
