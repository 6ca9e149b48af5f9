/* publisher: offers the newest executed epoch to the arbiter, while this node leads.
 *
 *   tick: we lead, and there is news --EPOCH_WANTED--> dataplane --UP_EPOCH--> publisher_epoch
 *     --arbiter_publish--> publisher_done --> the next tick that has news
 *
 * At most one publication a tick (config), one under way, and none for a while after a failure.
 * Threads: the loop's. Ownership: what `setup` points to outlives the publisher. */
#ifndef MAROON_PUBLISHER_H
#define MAROON_PUBLISHER_H

#include "controlplane/arbiter.h"
#include "controlplane/loop.h"
#include "dataplane/stages/mailbox.h"

struct publisher {
    struct loop *loop;
    struct arbiter *arbiter;
    struct mailbox *mailbox;
    void (*send_down)(void *context, const struct mailbox_down *message);
    void *context;
    uint64_t tick_ms;

    struct loop_timer timer;
    bool asked, running; /* the dataplane; the arbiter */
    uint64_t running_seq, done_seq;
    uint64_t wait_until_ns; /* after a failure */
};

void publisher_start(struct publisher *publisher); /* the fields above the blank line are set */
void publisher_stop(struct publisher *publisher);
void publisher_epoch(struct publisher *publisher); /* MAILBOX_UP_EPOCH has come */
void publisher_done(struct publisher *publisher, int error);

#endif
