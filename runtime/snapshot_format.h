/* Bytes of a snapshot (described in runtime/SNAPSHOT.md): head, pages in ascending order, an end
 * mark, tail. Little-endian. Every byte is covered: the head and the tail by their checksums, pages
 * and their numbers by the state hash. */
#ifndef MAROON_RUNTIME_SNAPSHOT_FORMAT_H
#define MAROON_RUNTIME_SNAPSHOT_FORMAT_H

#include <assert.h>
#include <stdint.h>

#include "proto/wire_hash.h"

/* Also of the region within: another layout of it is another version. 3: of a retired range 15
 * bytes are kept. */
#define SNAPSHOT_FORMAT_VERSION 3
#define SNAPSHOT_PAGE_END UINT64_MAX

static const uint8_t SNAPSHOT_MAGIC[8] = {'m', 'r', 'n', 's', 'n', 'a', 'p', '\n'};
static const uint8_t SNAPSHOT_TAIL_MAGIC[8] = {'m', 'r', 'n', 's', 'e', 'n', 'd', '\n'};

/* What a runtime that takes the snapshot must be made of: fields of struct runtime_config. */
struct snapshot_sizes {
    uint64_t state_bytes, result_bytes, idempotency_bytes, idempotency_span_us;
    uint32_t ranges_max, retired_max, results_kept, idempotency_slots;
    uint32_t max_transaction_bytes, max_result_bytes, undo_bytes;
    uint32_t reserved; /* 0 */
};
static_assert(sizeof(struct snapshot_sizes) == 64, "no padding");

struct snapshot_head {
    uint8_t magic[8];
    uint32_t format_version;
    uint32_t head_bytes;
    uint64_t configuration_id;
    uint64_t seq, term;
    uint64_t logical_time_us;
    struct wire_hash epoch_hash, result_hash, identity, origin;
    struct snapshot_sizes sizes;
    uint64_t region_bytes;
    uint32_t page_bytes;
    uint32_t reserved;         /* 0 */
    struct wire_hash checksum; /* BLAKE2b-256 of all above */
};
static_assert(sizeof(struct snapshot_head) == 288, "no padding");

/* Before each page's 4,096 bytes: its number, or SNAPSHOT_PAGE_END. */

struct snapshot_tail {
    uint8_t magic[8];
    uint64_t page_count;
    struct wire_hash state_hash;
    struct wire_hash checksum; /* BLAKE2b-256 of the head and all above */
};
static_assert(sizeof(struct snapshot_tail) == 80, "no padding");

#endif
