/* journal_dir: the files of a data directory. Private to the journal.
 *
 *   store                     two copies of struct journal_store_slot
 *   segment-<16 hex digits>   in use or prepared
 *   segment-….new             being prepared; removed at open
 *   spare-<16 hex digits>     released, waits to be a segment again
 *
 * The directory is locked (flock) while open; every segment opened for writing is locked too, so
 * that writes of a killed process that are still under way end before its successor goes on.
 * Every function may block. `text` is set on failure. Threads: one at a time. */
#ifndef MAROON_JOURNAL_DIR_H
#define MAROON_JOURNAL_DIR_H

#include "dataplane/journal/journal_faults.h"
#include "dataplane/journal/journal_format.h"

#define JOURNAL_SPARES_MAX 2

struct journal_dir {
    const char *path; /* the caller's */
    const struct journal_faults *faults;
    struct journal_store_slot store;
    int fd;
    int writable;
    int buffered_errno; /* why O_DIRECT is not used; 0: it is */
    uint32_t spare_count;
};

/* Writes "journal PATH: " and the formatted rest to `text`; returns `error`. */
int journal_say(char text[JOURNAL_TEXT_BYTES], int error, const char *path, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The error that stands for an errno. */
int journal_errno_error(int number);

void journal_segment_name(char name[32], uint64_t segment);

/* Opens and locks the directory; make: mkdir if absent. */
int journal_dir_open(struct journal_dir *dir, const char *path, int writable, int make,
                     const struct journal_faults *faults, char text[JOURNAL_TEXT_BYTES]);
void journal_dir_close(struct journal_dir *dir);

/* Reads the store file into dir->store. NOT_FOUND when there is none and no segment either. */
int journal_dir_load(struct journal_dir *dir, char text[JOURNAL_TEXT_BYTES]);

/* Makes a store without segments. */
int journal_dir_create(struct journal_dir *dir, const struct journal_identity *identity,
                       uint64_t segment_bytes, char text[JOURNAL_TEXT_BYTES]);

/* Writes dir->store, one copy after the other, each synced. */
int journal_dir_save(struct journal_dir *dir, char text[JOURNAL_TEXT_BYTES]);

/* Removes half-prepared segments, counts spares. */
int journal_dir_clean(struct journal_dir *dir, char text[JOURNAL_TEXT_BYTES]);

/* Opens a segment and checks its size and header. NOT_FOUND when the file is missing. */
int journal_dir_segment(struct journal_dir *dir, uint64_t segment, int *ret_fd,
                        char text[JOURNAL_TEXT_BYTES]);

/* Makes segment `segment`, zeroed or from a spare, durable under its name. Not yet in the store. */
int journal_dir_prepare(struct journal_dir *dir, uint64_t segment, int *ret_fd, int *ret_recycled,
                        char text[JOURNAL_TEXT_BYTES]);

/* Makes a spare of a segment that the store no longer lists, or deletes it. */
int journal_dir_retire(struct journal_dir *dir, uint64_t segment, char text[JOURNAL_TEXT_BYTES]);

#endif
