/* The state: how long a snapshot stops execution, and what ranges cost in memory. */
#include "perf/probe.h"

#include <stdlib.h>
#include <string.h>

#include "bank/v1/bank.pb-c.h"
#include "dataplane/replica/replica.h"
#include "perf/clock.h"
#include "runtime/applications/applications.h"
#include "runtime/runtime.h"

#define EPOCH_BODIES 256
#define BODY_ROOM 64

struct filler {
    struct runtime *runtime;
    uint64_t seq, next_id;
    struct runtime_body bodies[EPOCH_BODIES];
    uint8_t rooms[EPOCH_BODIES][BODY_ROOM];
};

/* An epoch of deposits into accounts first, first + 1, ... */
static void deposits(struct filler *f, uint64_t first) {
    const struct wire_control open = {WIRE_CONTROL_OPEN, 0, 1};
    for (uint32_t i = 0; i < EPOCH_BODIES; i++) {
        uint32_t offset = wire_tx_offset(f->next_id);
        struct wire_body_header header = {.service = wire_name_id("bank.v1.Bank", 12),
                                          .method = wire_name_id("Deposit", 7),
                                          .low_water = offset > 1000 ? offset - 1000 : 0};
        Bank__V1__DepositRequest request = BANK__V1__DEPOSIT_REQUEST__INIT;
        request.account = first + i;
        request.amount = 1;
        memcpy(f->rooms[i], &header, sizeof header);
        size_t bytes = protobuf_c_message_pack(&request.base, f->rooms[i] + sizeof header);
        f->bodies[i] =
            (struct runtime_body){f->next_id++, f->rooms[i], (uint32_t)(sizeof header + bytes)};
    }
    f->seq++;
    struct runtime_epoch epoch = {.seq = f->seq,
                                  .term = 1,
                                  .logical_time_us = f->seq,
                                  .controls = &open,
                                  .control_count = f->seq == 1,
                                  .bodies = f->bodies,
                                  .body_count = EPOCH_BODIES};
    if (runtime_execute_epoch(f->runtime, &epoch, NULL, NULL))
        probe_die("an epoch is refused");
}

static void runtime_configure(struct runtime_config *c) {
    runtime_config_defaults(c);
    c->applications = applications_list(&c->application_count);
}

static int swallow(void *user, const void *bytes, size_t length_bytes) {
    (void)bytes;
    *(uint64_t *)user += length_bytes;
    return 0;
}

static uint64_t longest(uint64_t *most_ns, uint64_t since_ns) {
    uint64_t took_ns = perf_clock_ns() - since_ns;
    *most_ns = took_ns > *most_ns ? took_ns : *most_ns;
    return took_ns;
}

/* As a node does it: some pages a pass, epochs in between, here all over the state, so that most
 * pages are copied before they change. */
int probe_snapshot(void) {
    static struct filler f;
    struct runtime_config config;
    struct runtime_facts facts;
    struct runtime_snapshot_info info;
    uint64_t bytes = probe_number("bytes", 64u << 20), written = 0, accounts = 0;
    uint32_t pages = (uint32_t)probe_number("pages", 16);
    probe_options_end();
    runtime_configure(&config);
    if (runtime_open(&config, &f.runtime))
        probe_die("no memory");
    do {
        deposits(&f, accounts);
        accounts += EPOCH_BODIES;
        runtime_facts(f.runtime, &facts);
    } while (facts.pages_touched * RUNTIME_PAGE_BYTES < bytes);
    (void)runtime_state_hash(f.runtime);
    uint64_t step_ns = 0, epoch_ns = 0, calm_ns = 0, begin_ns = 0, random = 1;
    for (uint32_t i = 0; i < 200; i++) { /* epochs alone, for comparison */
        uint64_t before_ns = perf_clock_ns();
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        deposits(&f, (random >> 20) % accounts);
        longest(&calm_ns, before_ns);
    }
    uint64_t start_ns = perf_clock_ns();
    if (runtime_snapshot_begin(f.runtime))
        probe_die("the snapshot does not begin");
    longest(&begin_ns, start_ns);
    for (int more = 1; more;) {
        uint64_t before_ns = perf_clock_ns();
        more = runtime_snapshot_step(f.runtime, pages, swallow, &written, &info);
        if (more < 0)
            probe_die("the snapshot fails");
        longest(&step_ns, before_ns);
        before_ns = perf_clock_ns();
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        deposits(&f, (random >> 20) % accounts);
        longest(&epoch_ns, before_ns);
    }
    uint64_t all_ns = perf_clock_ns() - start_ns;
    void *from = malloc(written), *to = malloc(written);
    if (!from || !to)
        probe_die("no memory");
    memset(from, 1, written);
    memset(to, 2, written);
    uint64_t before_ns = perf_clock_ns();
    memcpy(to, from, written);
    __asm__ volatile("" : : "r"(to) : "memory");
    uint64_t copy_ns = perf_clock_ns() - before_ns;
    probe_print(json_pack("{sI sI sI sI sI sI sI}", "bytes", (json_int_t)written, "begin_ns",
                          (json_int_t)begin_ns, "longest_step_ns", (json_int_t)step_ns,
                          "longest_epoch_ns", (json_int_t)epoch_ns, "longest_epoch_before_ns",
                          (json_int_t)calm_ns, "all_ns", (json_int_t)all_ns, "memcpy_ns",
                          (json_int_t)copy_ns));
    free(from);
    free(to);
    runtime_close(f.runtime);
    return 0;
}

/* ---- ranges ---- */

static size_t replica_bytes(uint32_t ranges, uint32_t retired) {
    struct replica_config c = {.node_count = 3,
                               .quorum = 2,
                               .epochs_in_flight = 8,
                               .epoch_cap = 4096,
                               .window = 65536,
                               .ranges_max = ranges,
                               .retired_max = retired,
                               .log_epochs = 1024,
                               .body_slots = 1u << 20,
                               .deliver_max = 64,
                               .heartbeat_interval_ns = 2000000,
                               .slice_floor_ns = 10000000,
                               .slice_max_ns = 100000000};
    size_t bytes = replica_size(&c);
    if (!bytes)
        probe_die("the replica refuses %u ranges", ranges);
    return bytes;
}

static uint64_t runtime_bytes(uint32_t ranges, uint32_t retired) {
    struct runtime_config c;
    runtime_configure(&c);
    c.ranges_max = ranges;
    c.retired_max = retired;
    struct runtime_memory memory;
    return runtime_memory_plan(&c, &memory) ? 0 : memory.most_bytes;
}

/* What one more range takes, from two sizes of everything. Of what the runtime reserves half is the
 * shadow: address space, and memory only while a snapshot saves changed pages there. */
int probe_ranges(void) {
    const uint32_t few = 1u << 14, many = 1u << 15;
    probe_options_end();
    double replica = (double)(replica_bytes(many, 1u << 20) - replica_bytes(few, 1u << 20)) / few;
    double replica_retired =
        (double)(replica_bytes(few, 1u << 21) - replica_bytes(few, 1u << 20)) / (1u << 20);
    double runtime = (double)(runtime_bytes(many, 1u << 20) - runtime_bytes(few, 1u << 20)) / few;
    double retired =
        (double)(runtime_bytes(few, 1u << 21) - runtime_bytes(few, 1u << 20)) / (1u << 20);
    probe_print(json_pack("{sf sf sf sf sf sf}", "replica_bytes", replica, "runtime_bytes",
                          runtime / 2, "shadow_bytes", runtime / 2, "replica_retired_bytes",
                          replica_retired, "runtime_retired_bytes", retired / 2,
                          "shadow_retired_bytes", retired / 2));
    return 0;
}
