/* dump_stretch: committed epochs with their bodies, in order, as a dump keeps them.
 *
 * record   head, the epoch's canonical bytes, then each body in execution order: id, length, bytes
 * stretch  records of consecutive epochs, zstd
 *
 * A reader trusts nothing: each epoch must name the hash of the one before, its bodies must be
 * those that its intervals name, and sum up to its digest (protocol.md §4). What joins the chain on
 * both sides to hashes that are trusted is therefore the cluster's order.
 *
 * Pure; any thread. Errors: CORRUPT and MISMATCH with words in `text` (DUMP_TEXT_BYTES),
 * NO_MEMORY. */
#ifndef MAROON_DUMP_STRETCH_H
#define MAROON_DUMP_STRETCH_H

#include "controlplane/dump/dump_object.h"
#include "proto/wire.h"

#define DUMP_STRETCH_BYTES (UINT32_C(8) << 20) /* of records in one stretch, about */

#pragma pack(push, 1)
struct dump_record_head {
    uint32_t record_bytes; /* with this head */
    uint16_t epoch_bytes;
    uint16_t body_count;
};
struct dump_body_head {
    uint64_t id;
    uint16_t length_bytes;
};
#pragma pack(pop)

struct dump_record {
    uint64_t seq;
    struct wire_hash hash; /* of the epoch's bytes */
    const uint8_t *epoch;  /* canonical; wire_epoch_check was passed */
    uint32_t epoch_bytes, body_count;
    const uint8_t *bodies; /* dump_body_next walks */
};

/* The record at the beginning of `bytes`: its length, or CORRUPT. Checks lengths and the epoch's
 * form, not yet what it says. */
int64_t dump_record_next(const void *bytes, size_t count, struct dump_record *ret_record);

/* Body at *at; moves on. The record was taken by dump_record_next. */
const uint8_t *dump_body_next(const uint8_t **at, struct dump_body_head *ret_head);

/* Is it epoch `seq` after `previous_hash`, with the bodies that it names? */
int dump_record_check(const struct dump_record *record, uint64_t seq,
                      const struct wire_hash *previous_hash,
                      const struct wire_digest_key *digest_key, char *text);

/* Payload of a stretch of whole records, and back. */
int dump_stretch_encode(const void *records, size_t count, struct dump_bytes *ret_payload);
int dump_stretch_decode(const struct dump_bytes *payload, struct dump_bytes *ret_records,
                        char *text);

#endif
