/* snapshots: files of the state, written by a thread of their own so that the poll loop never waits
 * for a disk.
 *
 *   idle --begin--> writing --end--> finishing --poll--> idle
 *             |         '--abandon--------^
 *   idle --adopt--------------------> finishing
 *
 * Vocabulary
 *   local     the newest snapshot this node would start from: DIR/snapshot-<seq, 16 hex digits>.
 *             It gets that name only when it is whole and synced, and its elders go after it came
 *   for peers a file at a path the caller names, not synced
 *
 * Threads: the dataplane's lcore calls everything but open, newest and close; the keeper thread
 * writes, syncs and renames. Between them are one byte ring (single producer, single consumer) and
 * atomics. Ownership: paths are copied. Errors: enum mrn_error, told by snapshots_poll. */
#ifndef MAROON_SNAPSHOTS_H
#define MAROON_SNAPSHOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SNAPSHOTS_PATH_MAX 512

struct snapshots;

/* `directory` holds the local snapshots ("" or NULL: this node keeps none); made if missing, what
 * an earlier process left half written is removed. 0, MRN_ERR_IO or MRN_ERR_NO_MEMORY. */
int snapshots_open(const char *directory, struct snapshots **ret_snapshots);

/* Abandons what is under way, joins the thread. NULL is allowed. Blocks for one write at most. */
void snapshots_close(struct snapshots *snapshots);

/* Path and seq of the newest local snapshot; false when there is none. Before the dataplane runs.
 */
bool snapshots_newest(const struct snapshots *snapshots, char ret_path[SNAPSHOTS_PATH_MAX],
                      uint64_t *ret_seq);

bool snapshots_idle(const struct snapshots *snapshots);

/* A local snapshot (path NULL) or one for peers begins. Only when idle. 0, or MRN_ERR_IO. */
int snapshots_begin(struct snapshots *snapshots, const char *path);

/* Bytes that snapshots_write takes now. */
size_t snapshots_room_bytes(const struct snapshots *snapshots);

/* A runtime_write_callback (user: struct snapshots *): copies, never blocks. MRN_ERR_FULL beyond
 * the room, or the keeper's error. */
int snapshots_write(void *snapshots, const void *bytes, size_t length_bytes);

/* All bytes were given; they are the state at epoch `seq`. */
void snapshots_end(struct snapshots *snapshots, uint64_t seq);

/* What was begun can't be finished, for this reason; its file is removed, snapshots_poll tells. */
void snapshots_abandon(struct snapshots *snapshots, int error);

/* The whole file at `path` becomes the local snapshot of `seq`: synced, renamed. Only when idle. */
void snapshots_adopt(struct snapshots *snapshots, const char *path, uint64_t seq);

struct snapshots_done {
    int error; /* 0: complete */
    bool local, adopted;
    uint64_t seq;
    char path[SNAPSHOTS_PATH_MAX]; /* where it lies now */
};

/* True once for each that ended, *ret_done set; then idle again. */
bool snapshots_poll(struct snapshots *snapshots, struct snapshots_done *ret_done);

#endif
