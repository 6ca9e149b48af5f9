/* fetch_costs: where the time and the bytes of a node's fetches of state went: the newest fetch
 * from each source that brought anything.
 *
 *   begin --> something came: the record is of this one --> phases grow --> ended, or failed
 *
 * A fetch that brings nothing (the store has nothing newer, the peer's journal begins later) leaves
 * the record of the one before.
 * Pure. Threads: one. Units: us, bytes; times are monotonic. */
#ifndef MAROON_FETCH_COSTS_H
#define MAROON_FETCH_COSTS_H

#include <stdbool.h>
#include <stdint.h>

#include "controlplane/dump/dump_read.h"

enum fetch_source {
    FETCH_STRETCH = 0, /* epochs of a peer's journal */
    FETCH_STORE,       /* a dump */
    FETCH_PEER,        /* a peer's snapshot */
    FETCH_SOURCE_COUNT
};

enum fetch_phase {
#define PHASE(name, label, sentence) FETCH_##name,
#include "controlplane/fetch_phases.def"
#undef PHASE
    FETCH_PHASE_COUNT
};

struct fetch_cost {
    uint64_t us, bytes;
};

struct fetch_costs {
    bool there;        /* any fetch from this source brought something */
    bool ended;        /* it is over; false: under way */
    int error;         /* when it is over; 0: what came is in use */
    uint64_t seq;      /* reached by it; 0: not yet */
    uint64_t since_ns; /* when it began */
    uint64_t total_us; /* from then to its end, or to the newest figure */
    struct fetch_cost phases[FETCH_PHASE_COUNT];
};

const char *fetch_source_name(enum fetch_source source);
const char *fetch_phase_name(enum fetch_phase phase);
/* Whether fetches from this source have this phase at all. */
bool fetch_has_phase(enum fetch_source source, enum fetch_phase phase);

/* Something came of a fetch that began at since_ns: the record is of this one from now on. */
void fetch_costs_come(struct fetch_costs *costs, uint64_t since_ns, uint64_t now_ns);
/* How far the dump's reader is. */
void fetch_costs_read(struct fetch_costs *costs, const struct dump_progress *progress);
void fetch_costs_end(struct fetch_costs *costs, int error, uint64_t seq, uint64_t now_ns);

#endif
