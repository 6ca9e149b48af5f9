/* Bytes of the journal on disk (docs/journal-format.md), pure: bytes in, bytes out.
 *
 * A segment file is a header block and data blocks, each JOURNAL_BLOCK_BYTES. A data block is a
 * header and payload; records lie in the payloads one behind the other and may run on into the next
 * block of the same write, their headers may not. Every block can be checked alone: its checksum is
 * seeded by the store, the segment's number and its place, so a misplaced block, or one left by an
 * earlier use of the file, is never taken for a good one.
 *
 * Threads: any. Nothing is kept; no call fails otherwise than said. */
#ifndef MAROON_JOURNAL_FORMAT_H
#define MAROON_JOURNAL_FORMAT_H

#include <assert.h>
#include <stdint.h>

#include "dataplane/journal/journal.h"

#define JOURNAL_VERSION 2        /* 2: records of kinds drop and commit */
#define JOURNAL_VERSION_OLDEST 1 /* still read; opening a store makes it JOURNAL_VERSION */
#define JOURNAL_BLOCK_BYTES 4096
#define JOURNAL_PAYLOAD_BYTES 4064
#define JOURNAL_STORE_SLOTS 2
#define JOURNAL_SEGMENT_MAGIC UINT64_C(0x676573206e6f726d) /* "mron seg" */
#define JOURNAL_STORE_MAGIC UINT64_C(0x6f7473206e6f726d)   /* "mron sto" */

#pragma pack(push, 1)

struct journal_block {
    uint64_t checksum;       /* of the block with this field 0 */
    uint64_t first_position; /* how many records began before this block */
    uint64_t stable_below;   /* known stable when this was written */
    uint32_t generation;     /* which opening of the store wrote it */
    uint16_t used_bytes;     /* of the payload */
    uint16_t first_offset;   /* where the first record begins that begins here */
    uint8_t payload[JOURNAL_PAYLOAD_BYTES];
};

struct journal_record {
    uint32_t position_low; /* of the position, to be sure */
    uint16_t length_bytes; /* of what follows */
    uint8_t kind;
    uint8_t reserved;
};

struct journal_segment_header {
    uint64_t checksum;
    uint64_t magic;
    uint32_t version;
    uint32_t block_bytes;
    uint64_t incarnation;
    uint64_t segment;
    uint64_t segment_bytes;
    uint8_t zero[JOURNAL_BLOCK_BYTES - 48];
};

struct journal_store_slot {
    uint64_t checksum;
    uint64_t magic;
    uint32_t version;
    uint32_t block_bytes;
    struct journal_identity identity;
    uint64_t segment_bytes;
    uint64_t update;                     /* the greater one of two good slots counts */
    uint64_t segment_begin, segment_end; /* these files must be there */
    uint64_t first_position;             /* of segment_begin */
    uint64_t stable_below;               /* known stable when this was written */
    uint32_t generation;                 /* of the last opening */
    uint32_t reserved;
    uint8_t zero[JOURNAL_BLOCK_BYTES - 112];
};

#pragma pack(pop)

static_assert(sizeof(struct journal_identity) == 32, "the identity is part of the format");
static_assert(sizeof(struct journal_record) == 8, "the record header is 8 bytes");
static_assert(sizeof(struct journal_block) == JOURNAL_BLOCK_BYTES, "a block");
static_assert(sizeof(struct journal_segment_header) == JOURNAL_BLOCK_BYTES, "a block");
static_assert(sizeof(struct journal_store_slot) == JOURNAL_BLOCK_BYTES, "a block");

/* Sums block `index` (>= 1) of segment `segment`. Its other fields are set. */
void journal_block_seal(struct journal_block *block, uint64_t incarnation, uint64_t segment,
                        uint64_t index);

/* 1 when the block is intact and belongs at this place. */
int journal_block_good(const struct journal_block *block, uint64_t incarnation, uint64_t segment,
                       uint64_t index);

/* 1 when nothing was ever written here: the zeros of a new segment. */
static inline int journal_block_unwritten(const struct journal_block *block) {
    return block->checksum == 0 && block->generation == 0;
}

void journal_segment_header_set(struct journal_segment_header *header, uint64_t incarnation,
                                uint64_t segment, uint64_t segment_bytes);

/* NULL when the header is that of this segment, else what is wrong with it. */
const char *journal_segment_header_wrong(const struct journal_segment_header *header,
                                         uint64_t incarnation, uint64_t segment,
                                         uint64_t segment_bytes);

void journal_store_seal(struct journal_store_slot *slot);

/* Chooses between the slots read from the store file. Returns its index, or CORRUPT (neither is
 * intact), or MISMATCH (intact, of another version or block size). */
int journal_store_choose(const struct journal_store_slot slots[JOURNAL_STORE_SLOTS]);

/* journal_packer: lays records into the blocks of one write.
 * Ownership: `blocks` is the caller's, block_max of them. */
struct journal_packer {
    struct journal_block *blocks;
    uint64_t incarnation, segment, index; /* place of blocks[0] */
    uint32_t generation;
    uint32_t block_count; /* begun */
    uint32_t block_max;
    uint32_t at;          /* in the payload of the last block begun */
    uint64_t first, next; /* positions: of the write, and of the next record */
};

void journal_packer_begin(struct journal_packer *packer, struct journal_block *blocks,
                          uint32_t block_max, uint64_t incarnation, uint64_t segment,
                          uint64_t index, uint32_t generation, uint64_t position);

/* 1 when a record with this length has room. */
int journal_packer_fits(const struct journal_packer *packer, uint32_t length_bytes);

/* Adds the record at packer->next; it fits. Full blocks are sealed with `stable_below`. */
void journal_packer_add(struct journal_packer *packer, enum journal_kind kind,
                        const struct journal_piece pieces[2], uint64_t stable_below);

/* Seals the last block (an empty write has one block without records: a mark). Returns the length
 * in bytes of the write. */
uint32_t journal_packer_end(struct journal_packer *packer, uint64_t stable_below);

/* Bytes of payload laid so far. */
uint64_t journal_packer_bytes(const struct journal_packer *packer);

#endif
