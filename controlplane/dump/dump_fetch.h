/* dump_fetch: the newest dump becomes a snapshot file, for a node that lacks the state.
 *
 *   pointer given (of etcd) --its manifest is gone--> the store's pointer --> DIR/fetch-<name>
 *
 * The file is named after its manifest: a try after kill -9 takes up the pages that are there; one
 * for another dump takes it over, and gets what differs: dumps that come quicker than a node gets
 * one do not make it begin anew.
 *
 * Threads: one that may wait. Errors, with words in `text` (DUMP_TEXT_BYTES): NOT_FOUND (no dump
 * above newer_than), MISMATCH (a dump of another cluster), those of dump_read. */
#ifndef MAROON_DUMP_FETCH_H
#define MAROON_DUMP_FETCH_H

#include "controlplane/dump/dump_read.h"

struct dump_fetch {
    struct dump_store *store;
    const struct dump_key *key;
    uint64_t configuration_id; /* the dump's must be the same; 0: any */
    const char *directory;     /* exists */
    uint64_t newer_than;
    const char *pointer; /* text; "": none */
    void (*tell)(void *context, uint64_t seq, const struct dump_progress *progress);
    void *context;
};

int dump_fetch(const struct dump_fetch *fetch, char ret_file[512], uint64_t *ret_seq, char *text);

#endif
