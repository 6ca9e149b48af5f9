/* crew: threads that the caller lends to what is long: the runtime has none of its own.
 *
 * `run` calls work(context) at least once, on each of its threads and on the caller's, at once or
 * one after the other, and returns when all have returned. A crew of NULL is the caller alone. What
 * comes out does not depend on the crew. */
#ifndef MAROON_RUNTIME_CREW_H
#define MAROON_RUNTIME_CREW_H

#include <stddef.h>

struct runtime_crew {
    void (*run)(void *user, void (*work)(void *context), void *context);
    void *user;
};

static inline void runtime_crew_run(const struct runtime_crew *crew, void (*work)(void *context),
                                    void *context) {
    if (crew == NULL)
        work(context);
    else
        crew->run(crew->user, work, context);
}

#endif
