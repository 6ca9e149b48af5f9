#include "dataplane/journal/journal_follow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dataplane/journal/journal_dir.h"
#include "dataplane/journal/journal_scan.h"

#define CHUNK_BLOCKS 256u

struct following {
    struct journal_dir dir;
    struct journal_scan scan;
    struct journal_block *buffer; /* CHUNK_BLOCKS */
    uint64_t block_count;         /* of a segment */
    uint64_t segment;             /* being read */
    uint64_t place;               /* of the write being read */
    int fd;                       /* of it */
    journal_follow_fn *each;
    void *context;
};

static int hand_out(void *context, enum journal_kind kind, uint64_t position, const uint8_t *bytes,
                    uint32_t length_bytes) {
    struct following *f = context;
    (void)position;
    return f->each(f->context, kind, f->place, bytes, length_bytes);
}

/* Reads up to CHUNK_BLOCKS from `block` on; how many are whole. */
static uint64_t read_blocks(struct following *f, uint64_t block) {
    uint64_t left = f->block_count - block, count = left < CHUNK_BLOCKS ? left : CHUNK_BLOCKS;
    ssize_t length =
        pread(f->fd, f->buffer, count * JOURNAL_BLOCK_BYTES, (off_t)(block * JOURNAL_BLOCK_BYTES));
    return length < 0 ? 0 : (uint64_t)length / JOURNAL_BLOCK_BYTES;
}

/* The log begins where this block, the first of a write, says. */
static void begin_at(struct following *f, uint64_t block) {
    const struct journal_block *first = f->buffer;
    journal_scan_begin(&f->scan, &f->dir.store);
    if ((f->segment != f->dir.store.segment_begin || block > 1) &&
        journal_block_good(first, f->scan.incarnation, f->segment, block))
        f->scan.next = first->first_position;
}

/* From block `from` on. 1: the log goes on in the next segment, if it does; 0: here it ends; or an
 * error. */
static int read_segment(struct following *f, uint64_t from, bool first) {
    for (uint64_t block = from; block < f->block_count;) {
        uint64_t count = read_blocks(f, block);
        if (!count)
            return 0;
        if (first && block == from)
            begin_at(f, block);
        for (uint64_t i = 0; i < count; i++, block++) {
            if (!journal_scan_follows(&f->scan, &f->buffer[i], f->segment, block,
                                      block == 1 && !first))
                return block > from; /* what is left of a segment may stay unused */
            if (f->buffer[i].first_offset == 0)
                f->place = f->segment << JOURNAL_PLACE_SEGMENT_SHIFT | block;
            int error = journal_scan_take(&f->scan, &f->buffer[i], hand_out, f);
            if (error)
                return error;
        }
    }
    return 1;
}

static int read_all(struct following *f, uint64_t from, char *text) {
    uint64_t begin = f->dir.store.segment_begin, segment = from >> JOURNAL_PLACE_SEGMENT_SHIFT;
    uint64_t block = (uint32_t)from;
    bool first = true;
    int more = 1;
    if (segment < begin || !block || block >= f->block_count) { /* gone: all that is left */
        segment = segment < begin ? begin : segment;
        block = 1;
    }
    for (f->segment = segment; more > 0; f->segment++, block = 1, first = false) {
        int error = journal_dir_segment(&f->dir, f->segment, &f->fd, text);
        if (error) /* not made yet, or gone already */
            return error == MRN_ERR_NOT_FOUND || error == MRN_ERR_CORRUPT ? 0 : error;
        more = read_segment(f, block, first);
        close(f->fd);
    }
    return more;
}

int journal_follow(const char *directory, uint64_t from, journal_follow_fn *each, void *context,
                   char text[JOURNAL_TEXT_BYTES]) {
    struct following *f = calloc(1, sizeof *f);
    if (!f)
        return journal_say(text, MRN_ERR_NO_MEMORY, directory, "no memory");
    f->each = each;
    f->context = context;
    f->dir.path = directory;
    f->dir.fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->buffer = aligned_alloc(JOURNAL_BLOCK_BYTES, CHUNK_BLOCKS * JOURNAL_BLOCK_BYTES);
    int error = 0;
    if (f->dir.fd < 0)
        error = journal_say(text, journal_errno_error(errno), directory, "can't open: %s",
                            strerror(errno));
    else if (!f->buffer)
        error = journal_say(text, MRN_ERR_NO_MEMORY, directory, "no memory");
    if (!error)
        error = journal_dir_load(&f->dir, text);
    f->block_count = f->dir.store.segment_bytes / JOURNAL_BLOCK_BYTES;
    if (!error)
        error = read_all(f, from, text);
    journal_dir_close(&f->dir);
    free(f->buffer);
    free(f);
    return error;
}
