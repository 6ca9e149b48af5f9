/* storage: a node's journal behind the replica's appends, and the start from what it holds
 * (protocol.md §9; durability = disk only).
 *
 *   open: local snapshot -> first look at the journal (which bodies does a replay take? was
 * anything promised?) -> replay through the replica, executing what was known committed -> append
 *
 * Records: docs/journal-format.md. Positions: the replica counts its own records from 0 after each
 * start; `base` is where they begin in the journal, which also holds records of the storage's own
 * (a promise again, so that the segment of an old one can go).
 *
 * What the journal can't take at once waits in a queue in memory; while much waits, bodies are not
 * taken (storage_pressed), so that the queue has room for epochs and promises.
 *
 * Threads: open and close by the thread that made the stage and by the dataplane's lcore; the rest
 * by the lcore only. Errors: open says what and where in text; later ones end the node with the
 * journal's own words: "the node stops acknowledging and says why". */
#ifndef MAROON_STORAGE_H
#define MAROON_STORAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "dataplane/journal/journal.h"
#include "dataplane/replica/replica.h"
#include "dataplane/stages/bodies.h"
#include "proto/wire_hash.h"

struct storage;

struct storage_config {
    const char *data_dir;
    struct journal_identity identity;
    uint64_t segment_bytes, body_sync_delay_ns, retain_bytes;
    uint32_t log_epochs;
    struct bodies *bodies; /* its positions are kept here */
};

/* First look: reads the whole journal of data_dir, if there is one. Returns 0 with *ret_storage
 * set, or the journal's error with a sentence in text (JOURNAL_TEXT_BYTES). */
int storage_open(const struct storage_config *config, struct storage **ret_storage, char *text);

/* Did the journal hold a promise, so that this store's memory is whole (protocol.md §7)? */
bool storage_promised(const struct storage *storage);

/* Before the replay: the state it begins with has executed everything of `range` below `position`;
 * such bodies are not handed out. 0 or NO_MEMORY. */
int storage_covered(struct storage *storage, uint64_t range, uint32_t position);

/* Hands each record, in order, to `step`, which returns 0 or the error that ends the start. Then
 * the journal takes appends. */
struct storage_replay {
    int (*step)(void *context, struct replica_event *event);
    const struct wire_digest_key *digest_key;
    void *context;
    uint64_t snapshot_seq; /* the state it begins with */
};
int storage_replay(struct storage *storage, const struct storage_replay *replay, char *text);

/* Writes and syncs what was appended. By the lcore, before its thread ends. NULL is allowed. */
void storage_close(struct storage *storage);

/* An APPEND_* action. Never fails: what can't be taken now waits. */
void storage_append(struct storage *storage, const struct replica_action *action, uint64_t now_ns);

/* Much waits for the disk: take no bodies. */
bool storage_pressed(const struct storage *storage);

/* Once a pass, after its appends. Returns 0; 1 with *ret_position, which is stable now (of the
 * replica's records, exclusive); or the error of a failed journal, with its words in *ret_text. */
int storage_poll(struct storage *storage, uint64_t now_ns, uint64_t *ret_position,
                 const char **ret_text);

/* Nothing is on its way to the disk: the lcore may sleep. */
bool storage_idle(const struct storage *storage);

/* journal_waiting_ns of its journal. */
uint64_t storage_waiting_ns(const struct storage *storage, uint64_t now_ns);

/* Bytes of records that the newest local snapshot does not cover. */
uint64_t storage_grown_bytes(const struct storage *storage);

/* Everything a replay on top of the state at `seq` needs lies at or above the returned mark. Called
 * when that state is current, before its snapshot is written. */
uint64_t storage_mark(struct storage *storage, uint64_t seq, uint64_t last_seq);

/* The snapshot of `seq` is complete: nothing below the mark is needed here any more. */
void storage_cut(struct storage *storage, uint64_t seq, uint64_t mark);

/* Lets go of what snapshots cover, up to the newest one at or below floor_seq: above it peers or
 * dumps still need the journal. More than retain_bytes are not kept for them. O(1) without news. */
void storage_trim(struct storage *storage, uint64_t floor_seq, uint64_t now_ns);

/* Epochs up to there were let go since the start. */
uint64_t storage_cut_seq(const struct storage *storage);

struct journal *storage_journal(const struct storage *storage);

#endif
