#include "dataplane/journal/journal_recover.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BLOCKS 256u

/* Reads blocks of one segment through a buffer. */
struct reader {
    struct journal_dir *dir;
    int fd; /* -1: no segment open */
    uint64_t segment, block_count;
    uint64_t first, count;    /* blocks in the buffer */
    int bad_errno;            /* of the last block that could not be read */
    struct journal_end blame; /* the block that does not follow, to be named */
    struct journal_block *buffer;
    struct journal_block *peek; /* one more, for the next segment's first block */
};

static int reader_init(struct reader *reader, struct journal_dir *dir) {
    *reader = (struct reader){.dir = dir, .fd = -1};
    reader->block_count = dir->store.segment_bytes / JOURNAL_BLOCK_BYTES;
    reader->buffer = aligned_alloc(JOURNAL_BLOCK_BYTES, (CHUNK_BLOCKS + 1) * JOURNAL_BLOCK_BYTES);
    reader->peek = reader->buffer + CHUNK_BLOCKS;
    return reader->buffer ? 0 : MRN_ERR_NO_MEMORY;
}

static void reader_close(struct reader *reader) {
    if (reader->fd >= 0)
        close(reader->fd);
    reader->fd = -1;
}

static int reader_open(struct reader *reader, uint64_t segment, char *text) {
    reader_close(reader);
    reader->segment = segment;
    reader->count = 0;
    return journal_dir_segment(reader->dir, segment, &reader->fd, text);
}

static int read_blocks(const struct reader *reader, int fd, uint64_t segment, uint64_t block,
                       uint64_t count, void *into) {
    uint64_t offset = block * JOURNAL_BLOCK_BYTES;
    int number = journal_fault(reader->dir->faults, JOURNAL_OP_READ, segment, offset);
    if (number)
        return number;
    ssize_t length = pread(fd, into, count * JOURNAL_BLOCK_BYTES, (off_t)offset);
    if (length < 0)
        return errno;
    return (uint64_t)length == count * JOURNAL_BLOCK_BYTES ? 0 : EIO;
}

/* The block, valid until the next call. One that can't be read looks empty: no good block does. */
static const struct journal_block *reader_block(struct reader *reader, uint64_t block) {
    if (block < reader->first || block >= reader->first + reader->count) {
        uint64_t left = reader->block_count - block;
        reader->first = block;
        reader->count = left < CHUNK_BLOCKS ? left : CHUNK_BLOCKS;
        if (read_blocks(reader, reader->fd, reader->segment, block, reader->count,
                        reader->buffer)) {
            for (uint64_t i = 0; i < reader->count; i++) {
                int number = read_blocks(reader, reader->fd, reader->segment, block + i, 1,
                                         &reader->buffer[i]);
                if (number) {
                    memset(&reader->buffer[i], 0, JOURNAL_BLOCK_BYTES);
                    reader->bad_errno = number;
                }
            }
        }
    }
    return &reader->buffer[block - reader->first];
}

/* Does the log go on in the next segment, although this one has blocks left? */
static int goes_on(struct reader *reader, const struct journal_scan *scan, uint64_t next,
                   char *text, int *ret_error) {
    int fd;
    if (next >= reader->dir->store.segment_end)
        return 0;
    *ret_error = journal_dir_segment(reader->dir, next, &fd, text);
    if (*ret_error)
        return 0;
    int number = read_blocks(reader, fd, next, 1, 1, reader->peek);
    close(fd);
    if (number)
        reader->bad_errno = number;
    return !number && journal_scan_follows(scan, reader->peek, next, 1, 1);
}

static int say_malformed(struct reader *reader, const struct journal_end *end, char *text) {
    char name[32];
    journal_segment_name(name, end->segment);
    return journal_say(text, MRN_ERR_CORRUPT, reader->dir->path,
                       "file %s, offset %" PRIu64 ": an intact block holds a malformed record",
                       name, end->block * JOURNAL_BLOCK_BYTES);
}

/* Reads to the end of the log. */
static int read_log(struct reader *reader, struct journal_scan *scan, journal_replay_fn *replay,
                    void *replay_context, journal_enter_fn *enter, void *enter_context,
                    struct journal_end *end, char *text) {
    const struct journal_store_slot *store = &reader->dir->store;
    end->segment = store->segment_begin;
    end->block = 1;
    for (; end->segment < store->segment_end; end->segment++, end->block = 1) {
        int error = reader_open(reader, end->segment, text);
        if (error)
            return error;
        enter(enter_context, end->segment, scan->next);
        int full = 1;
        for (; full && end->block < reader->block_count; end->block++) {
            const struct journal_block *block = reader_block(reader, end->block);
            if (!journal_scan_follows(scan, block, end->segment, end->block, 0)) {
                full = 0;
                break;
            }
            error = journal_scan_take(scan, block, replay, replay_context);
            if (error && error == scan->replay_error)
                return journal_say(text, error, reader->dir->path,
                                   "the record at position %" PRIu64 " was refused: %s",
                                   scan->next - 1, mrn_error_text(error));
            if (error)
                return say_malformed(reader, end, text);
        }
        int follows = goes_on(reader, scan, end->segment + 1, text, &error);
        reader->blame = *end;
        if (end->segment + 1 < store->segment_end &&
            (full || journal_block_unwritten(reader_block(reader, end->block))))
            reader->blame = (struct journal_end){end->segment + 1, 1};
        if (error || !follows) /* a full segment ends one past its last block */
            return error;
    }
    return 0;
}

/* Looks at everything from the end on. */
static int survey(struct reader *reader, struct journal_scan *scan, const struct journal_end *end,
                  char *text) {
    uint64_t block = end->block;
    for (uint64_t segment = end->segment; segment < reader->dir->store.segment_end; segment++) {
        int error =
            reader->fd >= 0 && segment == reader->segment ? 0 : reader_open(reader, segment, text);
        if (error)
            return error;
        if (segment == end->segment && block < reader->block_count)
            journal_scan_end(scan, reader_block(reader, block), segment, block);
        for (; block < reader->block_count; block++)
            journal_scan_survey(scan, reader_block(reader, block), segment, block);
        block = 1;
    }
    return 0;
}

int journal_recover(struct journal_dir *dir, struct journal_scan *scan, journal_replay_fn *replay,
                    void *replay_context, journal_enter_fn *enter, void *enter_context,
                    struct journal_end *ret_end, char text[JOURNAL_TEXT_BYTES]) {
    struct reader reader;
    struct journal_end end;
    if (reader_init(&reader, dir))
        return journal_say(text, MRN_ERR_NO_MEMORY, dir->path, "no memory");
    journal_scan_begin(scan, &dir->store);
    /* One more than the store knows is there when a crash came between its making and its entry. */
    for (int fd; !journal_dir_segment(dir, dir->store.segment_end, &fd, text);) {
        close(fd);
        dir->store.segment_end++;
    }
    int error = read_log(&reader, scan, replay, replay_context, enter, enter_context, &end, text);
    int bad_errno = reader.bad_errno;
    if (!error)
        error = survey(&reader, scan, &end, text);
    if (!error && !journal_scan_torn(scan)) {
        char name[32];
        journal_segment_name(name, reader.blame.segment);
        error = journal_say(text, MRN_ERR_CORRUPT, dir->path,
                            "file %s, offset %" PRIu64 ": %s (%s), but positions below %" PRIu64
                            " were stable and the log is readable only below %" PRIu64
                            "; rebuild this node from its peers in an empty directory",
                            name, reader.blame.block * JOURNAL_BLOCK_BYTES, "bad block",
                            bad_errno ? strerror(bad_errno) : "checksum or order",
                            scan->stable_floor, scan->next);
    }
    reader_close(&reader);
    free(reader.buffer);
    if (!error)
        *ret_end = end;
    return error;
}
