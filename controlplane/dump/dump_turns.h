/* dump_turns: when this node dumps. Looks into the store, waits for its turn, has a snapshot taken
 * and gives it to the dumper.
 *
 *   idle --due--> asks for the turn --ours, or etcd does not say--> snapshot --> dump --> gives it
 *                        '--another's, or a newer dump is named--> looks again         back
 *
 * The turn (arbiter_turn_take) keeps two nodes from dumping one epoch at once. Two do all the same
 * while etcd does not answer, when a holder stood still for longer than 6 s, when its dump takes
 * longer than TURN_MAX, and when an operator asked for a dump and another's has gone on for a
 * minute. That does no harm: objects are named by their content, and pointers go forward only.
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
    bool asked, waiting;          /* by an operator; for a snapshot */
    bool taking, ours;            /* the turn */
    uint64_t asked_ns, others_ns; /* by an operator; when another was found to have the turn */
    uint64_t ours_ns, idle_ns; /* since when it is ours; since when there is nothing to do in it */
    uint64_t deferred_seq;     /* a newer dump, named by etcd, that was looked for */
    uint64_t others, unfenced; /* turns not had; begun though not ours */
};

/* All fields above `timer` are set. */
void dump_turns_start(struct dump_turns *turns);
/* Before snapshot_destroy, which answers what is still waited for. */
void dump_turns_stop(struct dump_turns *turns);
/* A dump now, whoever's turn it is. */
void dump_turns_ask(struct dump_turns *turns);

#endif
