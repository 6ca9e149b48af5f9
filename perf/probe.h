/* maroon-perf-probe: one measurement per run, as a line of JSON on stdout; bench.py calls it,
 * repeats it and makes tables, files and plots of it.
 *
 *   inproc    a whole cluster on this thread              probe_inproc.c
 *   client    a gateway against running nodes             probe_client.c
 *   echo      the fabric alone: packets to a peer that sends them back    probe_echo.c
 *   hops, memcpy, sync, udp   floors of memory, disk and kernel           probe_floor.c
 *   hiccups   how long this machine keeps a loop from its core  probe_floor.c
 *   http, http-floor          a client, and the HTTP library alone        probe_http.c
 *   snapshot, ranges          the runtime's and the replica's memory      probe_state.c
 *   dump-make, dump-fetch, dump-floor     a dump at size, and a node's start from it   probe_dump.c
 *
 * Every option is --name=value; an unknown one ends the program. Threads: one, but for udp. */
#ifndef MAROON_PERF_PROBE_H
#define MAROON_PERF_PROBE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "perf/histogram.h"

/* The value of --name, or the default. Marks it as known. */
const char *probe_text(const char *name, const char *otherwise);
uint64_t probe_number(const char *name, uint64_t otherwise);
double probe_real(const char *name, double otherwise);

/* After all options were read: ends the program when one was not. */
void probe_options_end(void);

/* Says why on stderr and ends the program. */
void probe_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* {"count", "mean", "p50", "p90", "p99", "p999", "max", "curve": [[share, ns] ...]} in ns. */
json_t *probe_latency(const struct perf_histogram *histogram);

/* Prints the object and gives it back. */
void probe_print(json_t *object);

int probe_inproc(void);
int probe_client(void);
int probe_echo(void);
int probe_hops(void);
int probe_memcpy(void);
int probe_sync(void);
int probe_udp(void);
int probe_hiccups(void);
int probe_http(void);
int probe_http_floor(void);
int probe_snapshot(void);
int probe_ranges(void);
int probe_dump_make(void);
int probe_dump_fetch(void);
int probe_dump_floor(void);

#endif
