/* A state that goes on in a new cluster. */
#include <string.h>

#include "runtime/internal.h"

/* Retires the last active range of the table: the others keep their places. */
static int retire_one(struct runtime *runtime) {
    uint64_t range;
    struct runtime_range_facts facts;
    memcpy(&range, runtime_table_at(&runtime->ranges, runtime_table_count(&runtime->ranges) - 1),
           sizeof range);
    if (!runtime_range_find(runtime, range, &facts))
        return MRN_ERR_CORRUPT;
    const struct wire_control seal = {WIRE_CONTROL_SEAL, range, facts.executed};
    return runtime_range_control(runtime, &seal);
}

int runtime_found(struct runtime *runtime, uint64_t configuration_id,
                  const struct wire_hash *genesis_hash) {
    runtime_chain(runtime); /* before the epoch hash is another */
    int error = runtime->snapshot.on ? MRN_ERR_EXISTS : runtime->stopped ? MRN_ERR_CLOSED : 0;
    while (!error && runtime_table_count(&runtime->ranges))
        error = retire_one(runtime);
    if (error) {
        runtime->stopped |= error != MRN_ERR_EXISTS;
        return error;
    }
    struct region_header *header = region_change(runtime);
    header->configuration_id = runtime->config.configuration_id = configuration_id;
    header->epoch_hash = runtime->config.genesis_hash = *genesis_hash;
    return 0;
}
