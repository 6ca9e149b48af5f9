/* Short turns for threads that poll: see net.h. */
#include <assert.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dataplane/net/net.h"

#define TURN_NS 100000 /* the least that the kernel takes */

/* glibc has no sched_setattr yet, and the kernel's header of it cannot stand beside glibc's. */
struct attributes { /* sched_setattr(2), its first version */
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};
static_assert(sizeof(struct attributes) == 48, "SCHED_ATTR_SIZE_VER0");

void net_thread_short_turns(void) {
    struct attributes turns = {.size = sizeof turns};
    if (syscall(SYS_sched_getattr, 0, &turns, sizeof turns, 0) || turns.policy != SCHED_OTHER)
        return;
    turns.runtime_ns = TURN_NS;
    (void)syscall(SYS_sched_setattr, 0, &turns, 0);
}
