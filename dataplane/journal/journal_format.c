#include "dataplane/journal/journal_format.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "proto/wire_hash.h"

/* Any odd constants: they spread segment and place over the seed. */
#define SEED_SEGMENT UINT64_C(0x9e3779b97f4a7c15)
#define SEED_INDEX UINT64_C(0xd1b54a32d192ed03)
#define SEED_STORE UINT64_C(0x6d61726f6f6e7374)

static bool readable(uint32_t version, uint32_t block_bytes) {
    return version >= JOURNAL_VERSION_OLDEST && version <= JOURNAL_VERSION &&
           block_bytes == JOURNAL_BLOCK_BYTES;
}

static uint64_t block_sum(const void *block, uint64_t seed) {
    /* The checksum field comes first, so it is left out by starting behind it. */
    return wire_hash_packet(seed, (const uint8_t *)block + sizeof(uint64_t),
                            JOURNAL_BLOCK_BYTES - sizeof(uint64_t));
}

static uint64_t place_seed(uint64_t incarnation, uint64_t segment, uint64_t index) {
    return incarnation ^ ((segment + 1) * SEED_SEGMENT) ^ (index * SEED_INDEX);
}

void journal_block_seal(struct journal_block *block, uint64_t incarnation, uint64_t segment,
                        uint64_t index) {
    block->checksum = block_sum(block, place_seed(incarnation, segment, index));
}

int journal_block_good(const struct journal_block *block, uint64_t incarnation, uint64_t segment,
                       uint64_t index) {
    return block->generation != 0 && block->used_bytes <= JOURNAL_PAYLOAD_BYTES &&
           block->first_offset <= block->used_bytes &&
           block->checksum == block_sum(block, place_seed(incarnation, segment, index));
}

void journal_segment_header_set(struct journal_segment_header *header, uint64_t incarnation,
                                uint64_t segment, uint64_t segment_bytes) {
    memset(header, 0, sizeof(*header));
    header->magic = JOURNAL_SEGMENT_MAGIC;
    header->version = JOURNAL_VERSION;
    header->block_bytes = JOURNAL_BLOCK_BYTES;
    header->incarnation = incarnation;
    header->segment = segment;
    header->segment_bytes = segment_bytes;
    header->checksum = block_sum(header, place_seed(incarnation, segment, 0));
}

const char *journal_segment_header_wrong(const struct journal_segment_header *header,
                                         uint64_t incarnation, uint64_t segment,
                                         uint64_t segment_bytes) {
    if (header->magic != JOURNAL_SEGMENT_MAGIC)
        return "is not a segment";
    if (header->incarnation != incarnation)
        return "belongs to another store";
    if (header->segment != segment)
        return "has another segment's number";
    if (header->checksum != block_sum(header, place_seed(incarnation, segment, 0)))
        return "has a bad checksum";
    if (!readable(header->version, header->block_bytes))
        return "has another format version";
    if (header->segment_bytes != segment_bytes)
        return "has another size than its store says";
    return NULL;
}

void journal_store_seal(struct journal_store_slot *slot) {
    slot->magic = JOURNAL_STORE_MAGIC;
    slot->version = JOURNAL_VERSION;
    slot->block_bytes = JOURNAL_BLOCK_BYTES;
    slot->checksum = block_sum(slot, SEED_STORE);
}

int journal_store_choose(const struct journal_store_slot slots[JOURNAL_STORE_SLOTS]) {
    int best = MRN_ERR_CORRUPT;
    for (int i = 0; i < JOURNAL_STORE_SLOTS; i++) {
        if (slots[i].magic != JOURNAL_STORE_MAGIC ||
            slots[i].checksum != block_sum(&slots[i], SEED_STORE))
            continue;
        if (best < 0 || slots[i].update > slots[best].update)
            best = i;
    }
    if (best >= 0 && !readable(slots[best].version, slots[best].block_bytes))
        return MRN_ERR_MISMATCH;
    return best;
}

static void packer_open_block(struct journal_packer *packer, uint32_t first_offset) {
    assert(packer->block_count < packer->block_max);
    struct journal_block *block = &packer->blocks[packer->block_count++];
    block->first_position = packer->next;
    block->generation = packer->generation;
    block->first_offset = (uint16_t)first_offset;
    packer->at = 0;
}

static void packer_close_block(struct journal_packer *packer, uint64_t stable_below) {
    uint32_t last = packer->block_count - 1;
    struct journal_block *block = &packer->blocks[last];
    block->used_bytes = (uint16_t)packer->at;
    block->stable_below = stable_below;
    memset(block->payload + packer->at, 0, JOURNAL_PAYLOAD_BYTES - packer->at);
    journal_block_seal(block, packer->incarnation, packer->segment, packer->index + last);
}

void journal_packer_begin(struct journal_packer *packer, struct journal_block *blocks,
                          uint32_t block_max, uint64_t incarnation, uint64_t segment,
                          uint64_t index, uint32_t generation, uint64_t position) {
    assert(block_max >= 1 && index >= 1 && generation >= 1);
    *packer = (struct journal_packer){.blocks = blocks,
                                      .incarnation = incarnation,
                                      .segment = segment,
                                      .index = index,
                                      .generation = generation,
                                      .block_max = block_max,
                                      .first = position,
                                      .next = position};
    packer_open_block(packer, 0);
}

int journal_packer_fits(const struct journal_packer *packer, uint32_t length_bytes) {
    uint32_t room = JOURNAL_PAYLOAD_BYTES - packer->at;
    uint32_t more = packer->block_max - packer->block_count;
    if (room < sizeof(struct journal_record))
        room = 0;
    uint64_t all = (uint64_t)room + (uint64_t)more * JOURNAL_PAYLOAD_BYTES;
    return sizeof(struct journal_record) + (uint64_t)length_bytes <= all;
}

/* `left`: bytes of the record that follow this piece. */
static void packer_copy(struct journal_packer *packer, const void *bytes, uint32_t length_bytes,
                        uint32_t left, uint64_t stable_below) {
    const uint8_t *from = bytes;
    while (length_bytes > 0) {
        uint32_t room = JOURNAL_PAYLOAD_BYTES - packer->at;
        if (room == 0) {
            uint32_t rest = length_bytes + left;
            packer_close_block(packer, stable_below);
            packer_open_block(packer, rest < JOURNAL_PAYLOAD_BYTES ? rest : JOURNAL_PAYLOAD_BYTES);
            continue;
        }
        uint32_t take = length_bytes < room ? length_bytes : room;
        memcpy(packer->blocks[packer->block_count - 1].payload + packer->at, from, take);
        packer->at += take;
        from += take;
        length_bytes -= take;
    }
}

void journal_packer_add(struct journal_packer *packer, enum journal_kind kind,
                        const struct journal_piece pieces[2], uint64_t stable_below) {
    uint32_t length_bytes = pieces[0].length_bytes + pieces[1].length_bytes;
    assert(length_bytes <= JOURNAL_RECORD_MAX_BYTES && journal_packer_fits(packer, length_bytes));
    if (JOURNAL_PAYLOAD_BYTES - packer->at < sizeof(struct journal_record)) {
        packer_close_block(packer, stable_below);
        packer_open_block(packer, 0);
    }
    struct journal_record record = {.position_low = (uint32_t)packer->next,
                                    .length_bytes = (uint16_t)length_bytes,
                                    .kind = (uint8_t)kind};
    packer->next++; /* begun: blocks opened from here on count it */
    packer_copy(packer, &record, sizeof(record), length_bytes, stable_below);
    packer_copy(packer, pieces[0].bytes, pieces[0].length_bytes, pieces[1].length_bytes,
                stable_below);
    packer_copy(packer, pieces[1].bytes, pieces[1].length_bytes, 0, stable_below);
}

uint32_t journal_packer_end(struct journal_packer *packer, uint64_t stable_below) {
    packer_close_block(packer, stable_below);
    return packer->block_count * JOURNAL_BLOCK_BYTES;
}

uint64_t journal_packer_bytes(const struct journal_packer *packer) {
    return (uint64_t)(packer->block_count - 1) * JOURNAL_PAYLOAD_BYTES + packer->at;
}

#define JOURNAL_KIND(name, value, label, sticky, sentence) \
    static_assert((value) < JOURNAL_KINDS, "tables by kind have no room for it");
#include "dataplane/journal/journal_kinds.def"
#undef JOURNAL_KIND

const char *journal_kind_label(uint32_t kind) {
    switch (kind) {
#define JOURNAL_KIND(name, value, label, sticky, sentence) \
    case value:                                            \
        return label;
#include "dataplane/journal/journal_kinds.def"
#undef JOURNAL_KIND
    }
    return NULL;
}
