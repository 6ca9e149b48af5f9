/* dump_turns: when this node dumps. Looks into the store, waits for its turn, has a snapshot taken
 * and gives it to the dumper.
 *
 * Threads: the loop's. Ownership: the dumper is its own. */
#ifndef MAROON_DUMP_TURNS_H
#define MAROON_DUMP_TURNS_H

#include "controlplane/dump/dumper.h"
#include "controlplane/snapshot.h"

struct dump_turns {
    struct loop *loop;
    struct snapshot *snapshot;
    struct arbiter *arbiter;
    struct dumper *dumper;
    void (*dumped)(void *context, uint64_t seq); /* the newest dump, when it changes; may be NULL */
    uint64_t (*executed)(void *context); /* newest epoch here: no snapshot is taken for nothing */
    void *context;
    uint32_t node, node_count, interval_s; /* interval_s 0: only when asked */
    struct loop_timer timer;
    uint64_t looked_ns, tried_ns, told_seq;
    uint64_t
        fresh_ns; /* since when there is something that the newest dump lacks; 0: there is not */
    bool asked, waiting; /* by an operator; for a snapshot */
};

/* All fields above `timer` are set. */
void dump_turns_start(struct dump_turns *turns);
/* Before snapshot_destroy, which answers what is still waited for. */
void dump_turns_stop(struct dump_turns *turns);
/* A dump now, whoever's turn it is. */
void dump_turns_ask(struct dump_turns *turns);

#endif
