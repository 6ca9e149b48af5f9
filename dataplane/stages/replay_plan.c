#include "dataplane/stages/replay_plan.h"

#include <stdlib.h>
#include <string.h>

#include <maroon/error.h>

#include "dataplane/replica/replica.h"
#include "proto/wire.h"

struct drop { /* bodies with earlier records, from this offset on */
    uint64_t position;
    uint32_t from;
};

struct planned {
    uint64_t range; /* plus 1; 0: empty place */
    uint32_t end;   /* position: bodies below it are named by an epoch */
    uint32_t covered;
    uint32_t highest; /* position: above the highest body not dropped so far */
    uint32_t drop_count;
    struct drop *drops; /* ascending in both: a later one that reaches further down hides others */
};

struct replay_plan {
    struct planned *places; /* open addressing, linear probing, at most half full */
    uint32_t room, count;
};

static struct planned *find(const struct replay_plan *plan, uint64_t range) {
    uint32_t mask = plan->room - 1;
    uint32_t at = (uint32_t)((range + 1) * UINT64_C(0x9e3779b97f4a7c15) >> 40) & mask;
    while (plan->places[at].range && plan->places[at].range != range + 1)
        at = (at + 1) & mask;
    return &plan->places[at];
}

static int grow(struct replay_plan *plan, uint32_t room) {
    struct replay_plan bigger = {calloc(room, sizeof *bigger.places), room, plan->count};
    if (!bigger.places)
        return MRN_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < plan->room; i++)
        if (plan->places[i].range)
            *find(&bigger, plan->places[i].range - 1) = plan->places[i];
    free(plan->places);
    *plan = bigger;
    return 0;
}

static struct planned *put(struct replay_plan *plan, uint64_t range) {
    if (2 * plan->count >= plan->room && grow(plan, 2 * plan->room))
        return NULL;
    struct planned *p = find(plan, range);
    plan->count += p->range == 0;
    p->range = range + 1;
    return p;
}

struct replay_plan *replay_plan_new(void) {
    struct replay_plan *plan = calloc(1, sizeof *plan);
    if (plan && grow(plan, 256)) {
        free(plan);
        plan = NULL;
    }
    return plan;
}

void replay_plan_free(struct replay_plan *plan) {
    if (!plan)
        return;
    for (uint32_t i = 0; i < plan->room; i++)
        free(plan->places[i].drops);
    free(plan->places);
    free(plan);
}

int replay_plan_body(struct replay_plan *plan, uint64_t id) {
    struct planned *p = put(plan, wire_tx_range(id));
    if (!p)
        return MRN_ERR_NO_MEMORY;
    uint32_t above = wire_tx_offset(id) + 1;
    p->highest = above > p->highest ? above : p->highest;
    return 0;
}

int replay_plan_epoch(struct replay_plan *plan, const uint8_t *epoch) {
    const struct wire_epoch_head *head = (const void *)epoch;
    const struct wire_interval *v = wire_epoch_intervals(epoch);
    for (uint32_t i = 0; i < head->interval_count; i++) {
        uint32_t end = wire_tx_offset(v[i].first_id) + v[i].count;
        struct planned *p = put(plan, wire_tx_range(v[i].first_id));
        if (!p)
            return MRN_ERR_NO_MEMORY;
        p->end = end > p->end ? end : p->end;
    }
    return 0;
}

static int drop(struct planned *p, uint64_t position, uint32_t from) {
    if (p->highest <= from) /* nothing is there */
        return 0;
    while (p->drop_count && p->drops[p->drop_count - 1].from >= from)
        p->drop_count--;
    struct drop *more = realloc(p->drops, (p->drop_count + 1) * sizeof *more);
    if (!more)
        return MRN_ERR_NO_MEMORY;
    p->drops = more;
    p->drops[p->drop_count++] = (struct drop){position, from};
    p->highest = from;
    return 0;
}

int replay_plan_dropped(struct replay_plan *plan, uint64_t position, uint64_t range,
                        uint32_t from) {
    int error = 0;
    if (range != REPLICA_RANGES_ALL) {
        struct planned *p = find(plan, range);
        return p->range ? drop(p, position, from) : 0;
    }
    for (uint32_t i = 0; !error && i < plan->room; i++)
        if (plan->places[i].range)
            error = drop(&plan->places[i], position, plan->places[i].end);
    return error;
}

int replay_plan_covered(struct replay_plan *plan, uint64_t range, uint32_t below) {
    struct planned *p = put(plan, range);
    if (!p)
        return MRN_ERR_NO_MEMORY;
    p->covered = below;
    return 0;
}

bool replay_plan_takes(const struct replay_plan *plan, uint64_t position, uint64_t id) {
    const struct planned *p = find(plan, wire_tx_range(id));
    uint32_t offset = wire_tx_offset(id), i = 0;
    if (!p->range || offset >= p->end || offset < p->covered)
        return false;
    while (i < p->drop_count && p->drops[i].position < position)
        i++;
    return i == p->drop_count || offset < p->drops[i].from; /* the next reaches down furthest */
}
