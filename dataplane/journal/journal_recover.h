/* journal_recover: walks the segments of a data directory with journal_scan. Private; may block. */
#ifndef MAROON_JOURNAL_RECOVER_H
#define MAROON_JOURNAL_RECOVER_H

#include "dataplane/journal/journal_dir.h"
#include "dataplane/journal/journal_scan.h"

#define JOURNAL_TORN_BYTES 80

struct journal_end {
    uint64_t segment, block; /* where the next write goes; block may be one past the segment */
};

/* Called when the log enters a segment, with the position of the first record that begins there. */
typedef void journal_enter_fn(void *context, uint64_t segment, uint64_t first_position);

/* Reads all segments of dir->store (and any that follow), replays, judges. dir->store.segment_end
 * is raised if intact segments follow. NOT_FOUND, CORRUPT, IO, or what `replay` returned. */
int journal_recover(struct journal_dir *dir, struct journal_scan *scan, journal_replay_fn *replay,
                    void *replay_context, journal_enter_fn *enter, void *enter_context,
                    struct journal_end *ret_end, char text[JOURNAL_TEXT_BYTES]);

#endif
