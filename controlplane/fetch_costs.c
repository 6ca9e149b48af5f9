#include "controlplane/fetch_costs.h"

static uint64_t us(uint64_t from_ns, uint64_t to_ns) {
    return to_ns > from_ns ? (to_ns - from_ns) / 1000 : 0;
}

const char *fetch_source_name(enum fetch_source source) {
    switch (source) {
    case FETCH_STRETCH: return "stretch";
    case FETCH_STORE: return "store";
    case FETCH_PEER: return "peer";
    case FETCH_SOURCE_COUNT: break;
    }
    return "unknown";
}

const char *fetch_phase_name(enum fetch_phase phase) {
    static const char *const labels[] = {
#define PHASE(name, label, sentence) label,
#include "controlplane/fetch_phases.def"
#undef PHASE
    };
    return labels[phase];
}

bool fetch_has_phase(enum fetch_source source, enum fetch_phase phase) {
    return phase == FETCH_RUNTIME || (phase == FETCH_TRANSFER) == (source != FETCH_STORE);
}

void fetch_costs_come(struct fetch_costs *costs, uint64_t since_ns, uint64_t now_ns) {
    if (!costs->there || costs->since_ns != since_ns)
        *costs = (struct fetch_costs){.there = true, .since_ns = since_ns};
    costs->total_us = us(since_ns, now_ns);
}

void fetch_costs_read(struct fetch_costs *costs, const struct dump_progress *progress) {
    uint64_t pages_bytes = progress->pages_done * DUMP_PAGE_BYTES;
    costs->phases[FETCH_INDEXES] =
        (struct fetch_cost){progress->indexes_us, progress->indexes_bytes};
    costs->phases[FETCH_CHUNKS] = (struct fetch_cost){progress->chunks_us, pages_bytes};
    costs->phases[FETCH_GETS] = (struct fetch_cost){progress->gets_us, progress->fetched_bytes};
    costs->phases[FETCH_UNPACK] = (struct fetch_cost){progress->unpack_us, pages_bytes};
    costs->phases[FETCH_END] =
        (struct fetch_cost){progress->end_us, progress->end_us ? pages_bytes : 0};
}

void fetch_costs_end(struct fetch_costs *costs, int error, uint64_t seq, uint64_t now_ns) {
    costs->ended = true;
    costs->error = error;
    costs->seq = seq;
    costs->total_us = us(costs->since_ns, now_ns);
}
