/* What a seed means: sizes, speeds, and which faults it may meet. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#include <maroon/error.h>

static const char *const fault_words[SIM_FAULT_COUNT] = {
#define SIM_FAULT(name, word, sentence) word,
#include "tests/sim/sim_faults.def"
#undef SIM_FAULT
};

const char *sim_fault_word(enum sim_fault fault) {
    return fault_words[fault];
}

static uint32_t one_of(struct sim_random *random, const uint32_t *values, uint32_t count) {
    return values[sim_random_below(random, count)];
}

static void draw_cluster(struct sim_random *random, struct replica_config *c) {
    static const uint32_t nodes[] = {1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7};
    c->node_count = (uint8_t)one_of(random, nodes, sizeof nodes / sizeof *nodes);
    uint8_t majority = (uint8_t)(c->node_count / 2 + 1);
    c->quorum = majority;
    if (sim_random_chance(random, 300000))
        c->quorum = (uint8_t)sim_random_between(random, majority, c->node_count);
    c->durable = sim_random_chance(random, 550000);
    for (uint8_t i = 0; i < c->node_count; i++) { /* a random ring */
        uint8_t at = (uint8_t)sim_random_below(random, i + 1u);
        c->ring[i] = c->ring[at];
        c->ring[at] = i;
    }
    c->configuration_id = sim_random_next(random);
    for (uint32_t i = 0; i < sizeof c->genesis_hash.bytes; i++)
        c->genesis_hash.bytes[i] = (uint8_t)sim_random_next(random);
}

static void draw_sizes(struct sim_random *random, struct replica_config *c) {
    static const uint32_t in_flight[] = {1, 2, 3, 4, 8, 8, 16};
    c->epochs_in_flight = one_of(random, in_flight, sizeof in_flight / sizeof *in_flight);
    c->epoch_cap = sim_random_u32(random, 2, 48);
    c->window = sim_random_u32(random, 16, 256);
    c->ranges_max = 64;
    c->retired_max = c->ranges_max + SIM_RANGES_MAX;
    uint32_t log = 16;
    while (log < 4 * c->epochs_in_flight)
        log *= 2;
    c->log_epochs = log << sim_random_below(random, 3);
    uint32_t slots = c->epochs_in_flight * c->epoch_cap * sim_random_u32(random, 2, 4);
    c->body_slots = slots < 128 ? 128 : slots > 2048 ? 2048 : slots;
    c->deliver_max = sim_random_u32(random, 1, 2 * c->epochs_in_flight);
    if (c->deliver_max > c->log_epochs / 2)
        c->deliver_max = c->log_epochs / 2;
}

static void draw_times(struct sim_random *random, struct replica_config *c) {
    c->heartbeat_interval_ns = sim_random_between(random, 1, 5) * SIM_MS;
    c->slice_floor_ns = 5 * c->heartbeat_interval_ns;
    c->slice_max_ns = 100 * SIM_MS;
    c->vector_interval_ns = 100000;
    c->vector_idle_ns = 5 * SIM_MS;
    c->fetch_delay_ns =
        sim_random_chance(random, 500000) ? 0 : sim_random_between(random, 100000, SIM_MS);
    c->idle_epoch_ns =
        sim_random_chance(random, 500000) ? 0 : sim_random_between(random, 50, 200) * SIM_MS;
    c->seal_after_ns = sim_random_between(random, 30, 200) * SIM_MS;
}

static void draw_world(struct sim_random *random, struct sim_config *config) {
    config->hop_ns = sim_random_between(random, 20000, 200000);
    config->hop_spread_ns = sim_random_between(random, 0, 200000);
    config->loss_ppm = sim_random_u32(random, 0, 1000) * sim_random_u32(random, 0, 200);
    config->duplicate_ppm = sim_random_u32(random, 0, 50000);
    config->late_ppm = sim_random_u32(random, 0, 50000);
    config->late_ns = sim_random_between(random, 1, 20) * SIM_MS;
    config->corrupt_ppm = sim_random_u32(random, 0, 20000);
    config->sync_ns = sim_random_between(random, 50000, SIM_MS);
    config->sync_slow_ns = sim_random_between(random, 5, 50) * SIM_MS;
    config->execute_ns = sim_random_between(random, 5000, 200000);
    config->execute_slow_ns = sim_random_between(random, 1, 10) * SIM_MS;
    config->arbiter_ns = sim_random_between(random, 200000, 5 * SIM_MS);
    config->lease_ns = config->range_lease_ns = sim_random_between(random, 100, 400) * SIM_MS;
    config->term_base = sim_random_chance(random, 500000) ? 0 : 1000000;
    config->poll_ns = sim_random_between(random, 0, 50000);
    config->burst = sim_random_u32(random, 1, 64);
    config->transaction_gap_ns = sim_random_between(random, 300000, 6 * SIM_MS);
}

static uint32_t draw_faults(struct sim_random *random) {
    static const uint32_t shares[] = {0, 150000, 500000, 500000, 800000};
    uint32_t share = one_of(random, shares, sizeof shares / sizeof *shares), mask = 0;
    for (uint32_t fault = 0; fault < SIM_FAULTS_FIRST; fault++)
        mask |= (uint32_t)sim_random_chance(random, share) << fault;
    return mask;
}

/* A fault beside a kind's own, in three of ten. */
static uint32_t perhaps(struct sim_random *random, enum sim_fault fault) {
    return (uint32_t)sim_random_chance(random, 300000) << fault;
}

/* Much is in flight, leaders change all the time, gateways are soon taken for dead: so that logs
 * differ above what is committed whenever something happens. */
static void draw_rough(struct sim_config *config, uint64_t seed) {
    struct sim_random stream, *random = &stream;
    sim_random_seed(random, seed, 1001);
    struct replica_config *c = &config->replica;
    static const uint32_t nodes[] = {3, 3, 3, 5, 5};
    if (c->node_count < 3) {
        c->node_count = (uint8_t)one_of(random, nodes, sizeof nodes / sizeof *nodes);
        c->quorum = (uint8_t)(c->node_count / 2 + 1);
        config->listed = c->node_count;
        for (uint8_t i = 0; i < c->node_count; i++)
            c->ring[i] = i;
    }
    c->epochs_in_flight = sim_random_u32(random, 4, 16);
    c->log_epochs = 64u << sim_random_below(random, 2);
    c->body_slots = 2048;
    c->deliver_max = sim_random_u32(random, 1, c->epochs_in_flight);
    c->heartbeat_interval_ns = sim_random_between(random, 500, 2000) * 1000;
    c->slice_floor_ns = 5 * c->heartbeat_interval_ns;
    c->slice_max_ns = sim_random_between(random, 10, 40) * SIM_MS;
    c->seal_after_ns = sim_random_between(random, 3, 30) * SIM_MS;
    config->faults |= 1u << SIM_FAULT_PARTITION | 1u << SIM_FAULT_DELAY;
    config->faults |= 1u << (sim_random_chance(random, 500000) ? SIM_FAULT_CRASH : SIM_FAULT_PAUSE);
    config->faults |=
        1u << (sim_random_chance(random, 500000) ? SIM_FAULT_HANDOVER : SIM_FAULT_LOSS);
    config->faults |=
        1u << (sim_random_chance(random, 500000) ? SIM_FAULT_GATEWAY : SIM_FAULT_DISK);
    config->faults |= perhaps(random, SIM_FAULT_WIPE);
    if (sim_random_chance(random, 400000)) { /* memories are lost all the time */
        c->durable = false;
        config->faults |= 1u << SIM_FAULT_CRASH;
    }
    config->fault_gap_ns = sim_random_between(random, 4, 40) * SIM_MS;
    config->fault_ns = sim_random_between(random, 200, 800) * SIM_MS;
    config->hop_ns = sim_random_between(random, 200, 2000) * 1000;
    config->hop_spread_ns = sim_random_between(random, 0, 2000) * 1000;
    config->late_ppm = sim_random_u32(random, 10000, 100000);
    config->arbiter_ns = sim_random_between(random, 100, 1000) * 1000;
    config->lease_ns = sim_random_between(random, 20, 100) * SIM_MS;
    config->range_lease_ns = sim_random_between(random, 10, 100) * SIM_MS;
    config->core = false; /* it renews every second */
    config->transaction_gap_ns = sim_random_between(random, 150, 1000) * 1000;
    config->snapshot_epochs = c->log_epochs / 8;
    config->snapshot_ns = sim_random_between(random, 100000, 10 * SIM_MS);
}

bool sim_rough(uint64_t seed) {
    if (seed >= SIM_SEED_CHURN && seed < SIM_SEED_AMNESIA)
        return seed & 1;
    return seed >= SIM_SEED_ROUGH;
}

/* Gateways die as soon as they have sent something, and there is room for few ranges at a time: so
 * that many more are sealed and retired than fit. */
static void draw_churn(struct sim_config *config, uint64_t seed) {
    struct sim_random stream, *random = &stream;
    sim_random_seed(random, seed, 1002);
    struct replica_config *c = &config->replica;
    c->ranges_max = 8u << sim_random_below(random, 2);
    c->retired_max = c->ranges_max + SIM_RANGES_MAX;
    c->seal_after_ns = sim_random_between(random, 3, 30) * SIM_MS;
    config->lease_ns = sim_random_between(random, 20, 60) * SIM_MS;
    config->range_lease_ns = config->lease_ns + sim_random_between(random, 0, 40) * SIM_MS;
    config->core = false; /* it renews every second */
    config->gateways = sim_random_u32(random, 3, 5);
    config->faults |= 1u << SIM_FAULT_GATEWAY;
    config->faults |= (uint32_t)sim_random_chance(random, 500000) << SIM_FAULT_CRASH;
    config->fault_gap_ns = sim_random_between(random, 8, 40) * SIM_MS;
    config->fault_ns = sim_random_between(random, 500, 1500) * SIM_MS;
    config->transaction_gap_ns = sim_random_between(random, 300, 3000) * 1000;
}

/* All of them listed, the quorum a majority. */
static void set_nodes(struct sim_config *config, uint32_t count) {
    config->replica.node_count = (uint8_t)count;
    config->replica.quorum = (uint8_t)(count / 2 + 1);
    config->listed = count;
    for (uint8_t i = 0; i < count; i++)
        config->replica.ring[i] = i;
}

/* Take-overs one after the other under load, and in each a promise may be forgotten: the only
 * schedules that tell whose log a recovery takes and how many it asks. */
static void draw_amnesia(struct sim_config *config, uint64_t seed) {
    static const uint32_t nodes[] = {3, 3, 3, 3, 4, 5};
    struct sim_random stream, *random = &stream;
    sim_random_seed(random, seed, 1003);
    struct replica_config *c = &config->replica;
    set_nodes(config, one_of(random, nodes, sizeof nodes / sizeof *nodes));
    c->durable = sim_random_chance(random, 300000);
    config->faults = 1u << SIM_FAULT_AMNESIA | 1u << SIM_FAULT_HANDOVER | 1u << SIM_FAULT_DELAY;
    config->faults |= perhaps(random, SIM_FAULT_PARTITION);
    config->faults |= perhaps(random, SIM_FAULT_PAUSE);
    config->fault_gap_ns = sim_random_between(random, 6, 30) * SIM_MS;
    config->fault_ns = sim_random_between(random, 300, 800) * SIM_MS;
    config->arbiter_ns = sim_random_between(random, 50, 500) * 1000;
    config->hop_ns = sim_random_between(random, 50, 1000) * 1000;
    config->hop_spread_ns = config->hop_ns;
    config->sync_ns = sim_random_between(random, 50, 300) * 1000;
    config->transaction_gap_ns = sim_random_between(random, 100, 500) * 1000;
}

/* A leader proposes much to few, and leads again over less: whatever counts what they said then
 * commits what few hold. */
static void draw_return(struct sim_config *config, uint64_t seed) {
    static const uint32_t nodes[] = {5, 5, 7, 7};
    struct sim_random stream, *random = &stream;
    sim_random_seed(random, seed, 1004);
    struct replica_config *c = &config->replica;
    set_nodes(config, one_of(random, nodes, sizeof nodes / sizeof *nodes));
    c->durable = sim_random_chance(random, 600000);
    c->epochs_in_flight = sim_random_u32(random, 8, 16);
    config->faults = 1u << SIM_FAULT_RETURN | 1u << SIM_FAULT_DELAY;
    config->faults |= perhaps(random, SIM_FAULT_DUPLICATE);
    config->faults |= perhaps(random, SIM_FAULT_PAUSE);
    config->faults |= perhaps(random, SIM_FAULT_DISK);
    config->fault_gap_ns = sim_random_between(random, 10, 40) * SIM_MS;
    config->fault_ns = sim_random_between(random, 400, 1000) * SIM_MS;
    config->arbiter_ns = sim_random_between(random, 50, 500) * 1000;
    config->hop_ns = sim_random_between(random, 50, 500) * 1000;
    config->hop_spread_ns = 2 * config->hop_ns;
    config->lease_ns = sim_random_between(random, 100, 400) * SIM_MS;
    config->transaction_gap_ns = sim_random_between(random, 100, 500) * 1000;
}

/* Hand-overs one after the other, each with a promise of a process that ends at once. */
static void draw_dead(struct sim_config *config, uint64_t seed) {
    struct sim_random stream, *random = &stream;
    sim_random_seed(random, seed, 1005);
    struct replica_config *c = &config->replica;
    set_nodes(config, 5);
    c->durable = sim_random_chance(random, 300000);
    config->faults = 1u << SIM_FAULT_DEAD | 1u << SIM_FAULT_HANDOVER;
    config->faults |= perhaps(random, SIM_FAULT_DELAY);
    config->fault_gap_ns = sim_random_between(random, 5, 20) * SIM_MS;
    config->fault_ns = sim_random_between(random, 300, 800) * SIM_MS;
    config->arbiter_ns = sim_random_between(random, 50, 500) * 1000;
    config->hop_ns = sim_random_between(random, 50, 500) * 1000;
    config->hop_spread_ns = config->hop_ns;
    config->sync_ns = sim_random_between(random, 50, 300) * 1000;
    config->lease_ns = sim_random_between(random, 200, 400) * SIM_MS;
    config->transaction_gap_ns = sim_random_between(random, 100, 500) * 1000;
}

/* What one node promised goes with its memory, and its bodies were nowhere else. */
static void draw_gone(struct sim_config *config, uint64_t seed) {
    static const uint32_t nodes[] = {5, 5, 6, 7};
    struct sim_random stream, *random = &stream;
    sim_random_seed(random, seed, 1006);
    struct replica_config *c = &config->replica;
    set_nodes(config, one_of(random, nodes, sizeof nodes / sizeof *nodes));
    c->durable = false;
    config->faults = 1u << SIM_FAULT_GONE;
    config->faults |= perhaps(random, SIM_FAULT_DELAY);
    config->faults |= perhaps(random, SIM_FAULT_LOSS);
    config->fault_gap_ns = sim_random_between(random, 10, 40) * SIM_MS;
    config->fault_ns = sim_random_between(random, 300, 800) * SIM_MS;
    config->arbiter_ns = sim_random_between(random, 50, 500) * 1000;
    config->hop_ns = sim_random_between(random, 50, 300) * 1000;
    config->hop_spread_ns = config->hop_ns;
    config->lease_ns = sim_random_between(random, 100, 200) * SIM_MS;
    config->range_lease_ns = config->lease_ns;
    config->transaction_gap_ns = sim_random_between(random, 100, 500) * 1000;
}

/* Every transaction fills an epoch, and epochs in flight fill the slots: nothing is proposed before
 * something has left memory. */
static void draw_full(struct sim_config *config, uint64_t seed) {
    struct sim_random stream, *random = &stream;
    sim_random_seed(random, seed, 1007);
    struct replica_config *c = &config->replica;
    set_nodes(config, sim_random_u32(random, 2, 5));
    c->durable = true;
    c->epoch_cap = sim_random_u32(random, 2, 6);
    c->epochs_in_flight = 64 / c->epoch_cap + (64 % c->epoch_cap > 0);
    c->log_epochs = c->epochs_in_flight > 16 ? 128 : 64;
    c->body_slots = 2 * c->epochs_in_flight * c->epoch_cap;
    c->deliver_max = sim_random_u32(random, 1, c->epochs_in_flight);
    c->idle_epoch_ns = 0;
    config->parts_max = c->epoch_cap;
    config->whole = true;
    config->gateways = 3;
    config->faults = 1u << SIM_FAULT_DISK;
    config->faults |= perhaps(random, SIM_FAULT_DELAY);
    config->faults |= perhaps(random, SIM_FAULT_CRASH);
    config->faults |= perhaps(random, SIM_FAULT_PAUSE);
    config->fault_gap_ns = sim_random_between(random, 20, 100) * SIM_MS;
    config->fault_ns = sim_random_between(random, 100, 400) * SIM_MS;
    config->hop_ns = sim_random_between(random, 50, 500) * 1000;
    config->hop_spread_ns = config->hop_ns;
    config->transaction_gap_ns = sim_random_between(random, 50, 200) * 1000;
}

/* Three gateways hold one range that was never opened. */
static void draw_contest(struct sim_config *config, uint64_t seed) {
    struct sim_random stream, *random = &stream;
    sim_random_seed(random, seed, 1008);
    struct replica_config *c = &config->replica;
    set_nodes(config, sim_random_u32(random, 3, 5));
    c->seal_after_ns = 2 * SIM_SECOND; /* they speak once a second */
    c->heartbeat_interval_ns = sim_random_between(random, 2, 5) * SIM_MS;
    c->slice_floor_ns = 5 * c->heartbeat_interval_ns;
    c->slice_max_ns = 100 * SIM_MS;
    config->faults = 1u << SIM_FAULT_CONTEST;
    config->faults |= perhaps(random, SIM_FAULT_DELAY);
    config->faults |= perhaps(random, SIM_FAULT_LOSS);
    config->fault_gap_ns = 10 * SIM_MS;
    config->fault_ns = 2 * SIM_SECOND;
    config->gateways = 0; /* the schedule begins them */
    config->contested = config->core = true;
    config->hop_ns = sim_random_between(random, 50, 500) * 1000;
    config->hop_spread_ns = config->hop_ns;
    config->late_ns = sim_random_between(random, 1, 20) * SIM_MS;
    config->arbiter_ns = sim_random_between(random, 1, 100) * SIM_MS;
    config->lease_ns = SIM_SECOND;
    config->range_lease_ns = 5 * SIM_SECOND;
    config->transaction_gap_ns = sim_random_between(random, 20, 200) * SIM_MS;
}

void sim_config_draw(struct sim_config *config, uint64_t seed) {
    struct sim_random stream, *random = &stream;
    sim_random_seed(random, seed, 1000);
    memset(config, 0, sizeof *config);
    draw_cluster(random, &config->replica);
    draw_sizes(random, &config->replica);
    draw_times(random, &config->replica);
    draw_world(random, config);
    config->faults = draw_faults(random);
    config->gateways = sim_random_u32(random, 1, 3);
    config->listed = config->replica.node_count;
    if (sim_random_chance(random, 200000))
        config->listed = sim_random_u32(random, config->replica.quorum, config->replica.node_count);
    config->fault_ns = sim_random_between(random, 50, 1200) * SIM_MS;
    config->quiet_ns = 20 * SIM_SECOND;
    config->fault_gap_ns = sim_random_between(random, 20, 300) * SIM_MS;
    config->parts_max = config->replica.epoch_cap < 6 ? config->replica.epoch_cap : 6;
    config->body_bytes_max = sim_random_u32(random, 48, 256);
    config->core = sim_random_chance(random, 400000);
    if (config->core) /* it renews every second */
        config->range_lease_ns = sim_random_between(random, 2200, 5000) * SIM_MS;
    config->check_every = sim_random_chance(random, 100000) ? 1 : 200;
    if (sim_random_chance(random, 750000))
        config->snapshot_epochs = sim_random_between(random, 1, 4 * config->replica.log_epochs);
    config->snapshot_ns = sim_random_between(random, 100000, 100 * SIM_MS);
    for (uint32_t fault = SIM_FAULTS_FIRST; fault < SIM_FAULT_AMNESIA; fault++)
        config->faults |= (uint32_t)sim_random_chance(random, 150000) << fault;
    if (sim_rough(seed))
        draw_rough(config, seed);
    if (seed >= SIM_SEED_CONTEST)
        draw_contest(config, seed);
    else if (seed >= SIM_SEED_FULL)
        draw_full(config, seed);
    else if (seed >= SIM_SEED_GONE)
        draw_gone(config, seed);
    else if (seed >= SIM_SEED_DEAD)
        draw_dead(config, seed);
    else if (seed >= SIM_SEED_RETURN)
        draw_return(config, seed);
    else if (seed >= SIM_SEED_AMNESIA)
        draw_amnesia(config, seed);
    else if (seed >= SIM_SEED_CHURN)
        draw_churn(config, seed);
}

/* ---- the command line ---- */

static int set(struct sim_config *config, const char *key, size_t length, uint64_t value) {
#define KEY(name, field)                                         \
    if (strlen(name) == length && !strncmp(key, name, length)) { \
        config->field = (__typeof__(config->field))value;        \
        return 0;                                                \
    }
    KEY("nodes", replica.node_count)
    KEY("quorum", replica.quorum)
    KEY("durable", replica.durable)
    KEY("in_flight", replica.epochs_in_flight)
    KEY("epoch_cap", replica.epoch_cap)
    KEY("window", replica.window)
    KEY("ranges_max", replica.ranges_max)
    KEY("log_epochs", replica.log_epochs)
    KEY("body_slots", replica.body_slots)
    KEY("deliver_max", replica.deliver_max)
    KEY("listed", listed)
    KEY("gateways", gateways)
    KEY("core", core)
    KEY("faults", faults)
    KEY("fault_ms", fault_ns)
    KEY("check_every", check_every)
    KEY("snapshot_epochs", snapshot_epochs)
#undef KEY
    return MRN_ERR_NOT_FOUND;
}

int sim_config_override(struct sim_config *config, const char *text) {
    while (*text) {
        const char *equals = strchr(text, '=');
        char *end;
        if (!equals)
            return MRN_ERR_INVALID;
        uint64_t value = strtoull(equals + 1, &end, 0);
        if (end == equals + 1 || (*end && *end != ','))
            return MRN_ERR_INVALID;
        if (!strncmp(text, "fault_ms=", 9))
            value *= SIM_MS;
        int error = set(config, text, (size_t)(equals - text), value);
        if (error)
            return error;
        text = *end ? end + 1 : end;
    }
    struct replica_config *c = &config->replica;
    if (c->node_count < 1 || c->node_count > WIRE_NODES_MAX || c->quorum > c->node_count ||
        2 * c->quorum <= c->node_count || config->gateways > SIM_GATEWAYS_MAX)
        return MRN_ERR_INVALID;
    if (config->listed > c->node_count || config->listed < c->quorum)
        config->listed = c->node_count;
    for (uint8_t i = 0; i < c->node_count; i++)
        c->ring[i] = i;
    return 0;
}

void sim_config_print(const struct sim_config *config, FILE *out) {
    const struct replica_config *c = &config->replica;
    fprintf(out,
            "%u nodes, quorum %u, %s, %u listed, W %u, epoch_cap %u, window %u, log_epochs %u, "
            "body_slots %u, deliver_max %u, %u %sgateways, %llu ms of",
            c->node_count, c->quorum, c->durable ? "disk" : "memory", config->listed,
            c->epochs_in_flight, c->epoch_cap, c->window, c->log_epochs, c->body_slots,
            c->deliver_max, config->gateways, config->core ? "core " : "",
            (unsigned long long)(config->fault_ns / SIM_MS));
    for (uint32_t fault = 0; fault < SIM_FAULT_COUNT; fault++)
        if (config->faults >> fault & 1)
            fprintf(out, " %s", fault_words[fault]);
    fprintf(out, config->faults ? "\n" : " no faults\n");
}
