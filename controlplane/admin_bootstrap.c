#include <inttypes.h>
#include <stdio.h>

#include "controlplane/admin.h"
#include "maroon/error.h"

static json_t *costs_json(enum fetch_source source, const struct fetch_costs *costs) {
    if (!costs->there)
        return json_null();
    json_t *object = json_object(), *phases = json_object();
    admin_number(object, "seq", costs->seq);
    (void)json_object_set_new(object, "ended", json_boolean(costs->ended));
    (void)json_object_set_new(
        object, "error", costs->error ? json_string(mrn_error_name(costs->error)) : json_null());
    admin_number(object, "us", costs->total_us);
    for (enum fetch_phase phase = 0; phase < FETCH_PHASE_COUNT; phase++) {
        if (!fetch_has_phase(source, phase))
            continue;
        json_t *cost = json_object();
        admin_number(cost, "us", costs->phases[phase].us);
        admin_number(cost, "bytes", costs->phases[phase].bytes);
        (void)json_object_set_new(phases, fetch_phase_name(phase), cost);
    }
    (void)json_object_set_new(object, "phases", phases);
    return object;
}

json_t *admin_bootstrap_json(const struct admin_setup *setup) {
    struct snapshot_bootstrap b;
    snapshot_bootstrap(setup->snapshot, &b);
    json_t *object = json_object(), *fetches = json_object();
    (void)json_object_set_new(object, "stage", json_string(snapshot_stage_name(b.stage)));
    admin_number(object, "neededSeq", b.needed_seq);
    admin_number(object, "pages", b.progress.pages);
    admin_number(object, "pagesDone", b.progress.pages_done);
    admin_number(object, "fetchedBytes", b.progress.fetched_bytes + b.loaded_bytes);
    admin_number(object, "fromStore", b.from_store);
    admin_number(object, "fromPeers", b.from_peers);
    admin_number(object, "stretches", b.stretches);
    admin_number(object, "failures", b.failures);
    admin_number(object, "lastSeq", b.last_seq);
    for (enum fetch_source source = 0; source < FETCH_SOURCE_COUNT; source++)
        (void)json_object_set_new(fetches, fetch_source_name(source),
                                  costs_json(source, &b.costs[source]));
    (void)json_object_set_new(object, "fetches", fetches);
    return object;
}

/* One series for each phase that a source has. */
static void by_phase(FILE *out, const struct fetch_costs costs[FETCH_SOURCE_COUNT], bool seconds) {
    const char *name = seconds ? "maroon_bootstrap_phase_seconds" : "maroon_bootstrap_phase_bytes";
    fprintf(out, "# HELP %s of the newest fetch of state: %s\n# TYPE %s gauge\n", name,
            seconds ? "seconds, by source and phase; gets and unpack are added up within chunks"
                    : "bytes, by source and phase",
            name);
    for (enum fetch_source source = 0; source < FETCH_SOURCE_COUNT; source++)
        for (enum fetch_phase phase = 0; phase < FETCH_PHASE_COUNT; phase++) {
            const struct fetch_cost *cost = &costs[source].phases[phase];
            if (!fetch_has_phase(source, phase))
                continue;
            fprintf(out, "%s{source=\"%s\",phase=\"%s\"} ", name, fetch_source_name(source),
                    fetch_phase_name(phase));
            if (seconds)
                fprintf(out, "%.6f\n", (double)cost->us * 1e-6);
            else
                fprintf(out, "%" PRIu64 "\n", cost->bytes);
        }
}

void admin_bootstrap_metrics(const struct admin_setup *setup, FILE *out) {
    struct snapshot_bootstrap b;
    snapshot_bootstrap(setup->snapshot, &b);
    const struct admin_row rows[] = {
        {"bootstrap_stage", "gauge",
         "0 none, 1 waits, 2 fetches a dump, 3 a peer's snapshot, 4 restores, 5 fetches epochs of "
         "a peer's journal, 6 takes them",
         b.stage},
        {"bootstrap_pages", "gauge", "of the dump being fetched", b.progress.pages},
        {"bootstrap_pages_done", "gauge", "of them here", b.progress.pages_done},
        {"bootstrap_fetched_bytes", "gauge", "of the newest fetch",
         b.progress.fetched_bytes + b.loaded_bytes},
        {"bootstraps_from_store_total", "counter", "dumps restored", b.from_store},
        {"bootstraps_from_peers_total", "counter", "snapshots of peers restored", b.from_peers},
        {"bootstrap_stretches_total", "counter", "of epochs, taken from peers' journals",
         b.stretches},
        {"bootstrap_failures_total", "counter", "fetches that came to nothing", b.failures},
    };
    admin_rows(out, rows, sizeof rows / sizeof *rows);
    by_phase(out, b.costs, true);
    by_phase(out, b.costs, false);
}
