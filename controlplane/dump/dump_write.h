/* dump_write: a snapshot file becomes a dump.
 *
 *   file --> pages that changed --> chunks, indexes --> manifest --> pointer
 *   journal --> epochs since the dump before, with their bodies --> stretches ---^
 *
 * The pointer moves only when all below it is stored and was read back, and never back. The file is
 * checked on the way: pages, state hash, tail. Of two writers at once both dumps are whole, and one
 * is pointed to.
 *
 * Threads: one that may wait. Errors, with words in `text` (DUMP_TEXT_BYTES): EXISTS (a dump of
 * this epoch or a later one is there), MISMATCH (the store holds dumps of another cluster), CORRUPT
 * (the file), those of the store. After any error the state given in is empty and is loaded anew.
 */
#ifndef MAROON_DUMP_WRITE_H
#define MAROON_DUMP_WRITE_H

#include "controlplane/dump/dump_journal.h"
#include "controlplane/dump/dump_state.h"

struct dump_writer {
    struct dump_store *store;
    const struct dump_key *key;
    const struct dump_signer *signer;
    char cluster[DUMP_CLUSTER_MAX];
    uint64_t cluster_id;
    uint32_t node;
    uint64_t incarnation;
    struct wire_digest_key digest_key;
    struct dump_application applications[DUMP_APPLICATIONS_MAX];
    uint32_t application_count;
    struct dump_journal *journal;  /* NULL: this node has none, and its dumps no stretches */
    uint64_t begin_seq;            /* the cluster's first epoch is the one after */
    struct wire_hash genesis_hash; /* which this precedes */
    struct dump_state state; /* of the newest dump; empty at first, dump_state_free at the end */
    uint32_t check_next;     /* dump_check's */
};

struct dump_report {
    uint64_t seq, pages, changed_pages;
    uint64_t sent_bytes, skipped_bytes, checked_bytes; /* of objects; checked: read back */
    uint32_t chunks, stretches;
    uint64_t epochs;           /* in the stretches */
    char gap[DUMP_TEXT_BYTES]; /* why there are no stretches; "": there are */
    char path[DUMP_NAME_MAX];  /* of the manifest */
};

int dump_write(struct dump_writer *writer, int snapshot_fd, struct dump_report *ret_report,
               char *text);

#endif
