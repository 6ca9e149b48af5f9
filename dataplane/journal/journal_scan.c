#include "dataplane/journal/journal_scan.h"

#include <string.h>

void journal_scan_begin(struct journal_scan *scan, const struct journal_store_slot *store) {
    memset(scan, 0, sizeof(*scan));
    scan->incarnation = store->identity.incarnation;
    scan->next = store->first_position;
    scan->stable_floor = store->stable_below;
    scan->generation_max = store->generation;
}

int journal_scan_follows(const struct journal_scan *scan, const struct journal_block *block,
                         uint64_t segment, uint64_t index, int jump) {
    if (!journal_block_good(block, scan->incarnation, segment, index) ||
        block->generation < scan->generation)
        return 0;
    if (scan->record_length == 0)
        return block->first_offset == 0 && block->first_position == scan->next;
    if (block->generation > scan->generation)
        return block->first_offset == 0 && block->first_position == scan->next;
    uint32_t rest = scan->record_length - scan->record_have;
    uint32_t offset = rest < JOURNAL_PAYLOAD_BYTES ? rest : JOURNAL_PAYLOAD_BYTES;
    return !jump && block->first_offset == offset && block->first_position == scan->next + 1;
}

static int scan_record_done(struct journal_scan *scan, journal_replay_fn *replay, void *context) {
    uint32_t length_bytes = scan->record_length - (uint32_t)sizeof(struct journal_record);
    int error = 0;
    if (replay)
        error = replay(context, (enum journal_kind)scan->record_kind, scan->next,
                       scan->record + sizeof(struct journal_record), length_bytes);
    scan->kind_count[scan->record_kind]++;
    scan->record_count++;
    scan->record_bytes += length_bytes;
    scan->next++;
    scan->record_length = scan->record_have = 0;
    scan->replay_error = error;
    return error;
}

static uint32_t scan_copy(struct journal_scan *scan, const uint8_t *from, uint32_t room_bytes) {
    uint32_t take = scan->record_length - scan->record_have;
    if (take > room_bytes)
        take = room_bytes;
    memcpy(scan->record + scan->record_have, from, take);
    scan->record_have += take;
    return take;
}

int journal_scan_take(struct journal_scan *scan, const struct journal_block *block,
                      journal_replay_fn *replay, void *context) {
    uint32_t at = 0, used_bytes = block->used_bytes;
    if (block->generation > scan->generation)
        scan->record_length = scan->record_have = 0; /* a later opening cut it */
    scan->generation = block->generation;
    if (block->generation > scan->generation_max)
        scan->generation_max = block->generation;
    if (block->stable_below > scan->stable_floor)
        scan->stable_floor = block->stable_below;
    while (at < used_bytes) {
        if (scan->record_length == 0) {
            struct journal_record record;
            if (used_bytes - at < sizeof(record))
                return MRN_ERR_CORRUPT;
            memcpy(&record, block->payload + at, sizeof(record));
            if (record.position_low != (uint32_t)scan->next || !journal_kind_label(record.kind) ||
                record.length_bytes > JOURNAL_RECORD_MAX_BYTES)
                return MRN_ERR_CORRUPT;
            scan->record_length = (uint32_t)sizeof(record) + record.length_bytes;
            scan->record_kind = record.kind;
        }
        at += scan_copy(scan, block->payload + at, used_bytes - at);
        if (scan->record_have == scan->record_length) {
            int error = scan_record_done(scan, replay, context);
            if (error)
                return error;
        }
    }
    /* Only a full block may leave a record unfinished. */
    return scan->record_length && used_bytes != JOURNAL_PAYLOAD_BYTES ? MRN_ERR_CORRUPT : 0;
}

void journal_scan_end(struct journal_scan *scan, const struct journal_block *block,
                      uint64_t segment, uint64_t index) {
    int whole = journal_block_unwritten(block);
    for (uint64_t earlier = segment + 1; !whole && earlier > 0; earlier--)
        whole = journal_block_good(block, scan->incarnation, earlier - 1, index);
    scan->cut_blocks += !whole;
}

void journal_scan_survey(struct journal_scan *scan, const struct journal_block *block,
                         uint64_t segment, uint64_t index) {
    if (!journal_block_good(block, scan->incarnation, segment, index))
        return;
    if (block->stable_below > scan->stable_floor)
        scan->stable_floor = block->stable_below;
    if (block->generation > scan->generation_max)
        scan->generation_max = block->generation;
    if (block->generation >= scan->generation && block->first_position >= scan->next)
        scan->cut_blocks++;
}
