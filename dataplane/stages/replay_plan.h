/* replay_plan: which bodies of a journal a replay takes (replica.h, stable storage).
 *
 *   every record in order --replay_plan_body, _epoch, _dropped--> plan --replay_plan_takes-->
 * replay
 *
 * A body is taken if an epoch of the journal names it and memory had not dropped it by the
 * journal's end: so a replay holds at no record more than the process held that wrote it, and
 * everything that was acknowledged. What no epoch names was never acknowledged.
 *
 * Pure but for memory. Threads: one at a time. Errors: NO_MEMORY; the plan is of no use then. */
#ifndef MAROON_REPLAY_PLAN_H
#define MAROON_REPLAY_PLAN_H

#include <stdbool.h>
#include <stdint.h>

struct replay_plan;

struct replay_plan *replay_plan_new(void); /* NULL: no memory */
void replay_plan_free(struct replay_plan *plan);

/* The records in their order; `position` is the record's. */
int replay_plan_body(struct replay_plan *plan, uint64_t id);
int replay_plan_epoch(struct replay_plan *plan, const uint8_t *epoch); /* canonical, checked */
int replay_plan_dropped(struct replay_plan *plan, uint64_t position, uint64_t range, uint32_t from);

/* The state that the replay begins with has executed everything of `range` below `below`: its
 * bodies are not taken. Any time before replay_plan_takes. */
int replay_plan_covered(struct replay_plan *plan, uint64_t range, uint32_t below);

/* Once all records were shown. */
bool replay_plan_takes(const struct replay_plan *plan, uint64_t position, uint64_t id);

#endif
