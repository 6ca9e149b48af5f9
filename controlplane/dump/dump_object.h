/* dump_object: what a store's object is: a head of 16 bytes and a payload, named by its content.
 *
 *   payload --dump_object_make--> object + name      object + name --dump_object_open--> payload
 *
 * Vocabulary
 *   name      BLAKE2b-256 of the payload; with a key of (key, payload), so that a name tells
 * nothing about the content. Whoever has a name can check what a store answers key       optional,
 * 32 bytes: payloads are sealed by libsodium's secretstream
 *
 * Bytes: docs/dump-format.md. Pure but for the random head of a sealed payload; any thread.
 * Errors: UNSUPPORTED (a newer version), CORRUPT (not what the name says, cut short), DENIED
 * (sealed and no key, or another one), MISMATCH (another kind of object), NO_MEMORY. */
#ifndef MAROON_DUMP_OBJECT_H
#define MAROON_DUMP_OBJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "controlplane/dump/dump_bytes.h"
#include "proto/wire_hash.h"

#define DUMP_FORMAT_VERSION 1
#define DUMP_TEXT_BYTES 320
#define DUMP_PAYLOAD_MAX_BYTES (UINT32_C(256) << 20)

/* A payload anew: `head`, then `raw` packed by zstd at this level. 0 or NO_MEMORY. */
int dump_payload_pack(struct dump_bytes *payload, const void *head, size_t head_bytes,
                      const void *raw, size_t raw_bytes, int level);

struct dump_key {
    bool set;
    uint8_t bytes[32];
};

enum dump_kind { DUMP_CHUNK = 1, DUMP_INDEX = 2, DUMP_STRETCH = 3, DUMP_MANIFEST = 4 };

/* Folder of a kind in the store: "chunks", ... */
const char *dump_kind_folder(enum dump_kind kind);

struct wire_hash dump_object_name(const struct dump_key *key, const void *payload, size_t count);

/* Appends the object to *ret_object, emptied before. 0 or NO_MEMORY. */
int dump_object_make(enum dump_kind kind, const struct dump_key *key, const void *payload,
                     size_t count, struct dump_bytes *ret_object, struct wire_hash *ret_name);

/* Checks everything. `text` (DUMP_TEXT_BYTES) says what is wrong. */
int dump_object_open(enum dump_kind kind, const struct dump_key *key, const struct wire_hash *name,
                     const void *object, size_t count, struct dump_bytes *ret_payload, char *text);

/* The same without a copy: *ret_view lies in the object, or in `room` when that was sealed; it is
 * not to be freed. `name` NULL leaves its bytes unchecked: for who compares what they hold. */
int dump_object_view(enum dump_kind kind, const struct dump_key *key, const struct wire_hash *name,
                     const void *object, size_t count, struct dump_bytes *room,
                     struct dump_bytes *ret_view, char *text);

/* 64 hex digits and a 0; back again: false when it is no name. */
void dump_name_text(const struct wire_hash *name, char ret_text[65]);
bool dump_name_of_text(const char *text, struct wire_hash *ret_name);

#endif
