/* Bytes of a snapshot (described in runtime/SNAPSHOT.md): head, pages in ascending order, an end
 * mark, tail. Little-endian. Every byte is covered: the head and the tail by their checksums, pages
 * and their numbers by the state hash. */
#ifndef MAROON_RUNTIME_SNAPSHOT_FORMAT_H
#define MAROON_RUNTIME_SNAPSHOT_FORMAT_H

#include <assert.h>
#include <stdint.h>

#include "proto/wire_hash.h"

#define SNAPSHOT_FORMAT_VERSION 1
#define SNAPSHOT_PAGE_END UINT64_MAX

static const uint8_t SNAPSHOT_MAGIC[8] = {'m', 'r', 'n', 's', 'n', 'a', 'p', '\n'};
static const uint8_t SNAPSHOT_TAIL_MAGIC[8] = {'m', 'r', 'n', 's', 'e', 'n', 'd', '\n'};

struct snapshot_head {
    uint8_t magic[8];
    uint32_t format_version;
    uint32_t head_bytes;
    uint64_t configuration_id;
    uint64_t seq, term;
    uint64_t logical_time_us;
    struct wire_hash epoch_hash, result_hash, identity;
    uint64_t region_bytes;
    uint32_t page_bytes;
    uint32_t reserved;         /* 0 */
    struct wire_hash checksum; /* BLAKE2b-256 of all above */
};
static_assert(sizeof(struct snapshot_head) == 192, "no padding");

/* Before each page's 4,096 bytes: its number, or SNAPSHOT_PAGE_END. */

struct snapshot_tail {
    uint8_t magic[8];
    uint64_t page_count;
    struct wire_hash state_hash;
    struct wire_hash checksum; /* BLAKE2b-256 of the head and all above */
};
static_assert(sizeof(struct snapshot_tail) == 80, "no padding");

#endif
