/* dump_show: how far a fetch is, for people: a bar for a terminal, a line a second elsewhere. Pure;
 * any thread. */
#ifndef MAROON_DUMP_SHOW_H
#define MAROON_DUMP_SHOW_H

#include "controlplane/dump/dump_read.h"

#define DUMP_SHOW_BYTES 160

struct dump_show {
    bool terminal, ended;       /* ended: all was told */
    uint64_t since_ns, told_ns; /* monotonic; since_ns is set by the caller */
};

/* True when something is to be said now: its text, without an end of line. For a terminal it
 * begins with a carriage return. */
bool dump_show(struct dump_show *show, uint64_t now_ns, const struct dump_progress *progress,
               char ret_text[DUMP_SHOW_BYTES]);

#endif
