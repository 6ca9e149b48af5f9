/* dump_manifest: what a dump consists of, signed by the node that wrote it; and the pointer to the
 * newest one.
 *
 * Vocabulary
 *   manifest  head and tail of the snapshot, the list of its chunks, and the stretches of the
 *             journal that lead to it. An object of the store, manifests/<seq, 16 hex
 * digits>-<name> pointer   the object "latest": JSON that names the newest complete manifest.
 * Written last
 *
 * Pure; any thread. Ownership: chunks belong to the manifest, dump_manifest_free. Errors: CORRUPT,
 * UNSUPPORTED, MISMATCH, DENIED (signature) with words in text (DUMP_TEXT_BYTES); NO_MEMORY. */
#ifndef MAROON_DUMP_MANIFEST_H
#define MAROON_DUMP_MANIFEST_H

#include <sodium.h>

#include "controlplane/dump/dump_object.h"
#include "runtime/snapshot_format.h"

#define DUMP_CLUSTER_MAX 64
#define DUMP_NAME_MAX 128

struct dump_chunk {
    struct wire_hash name, index;
    uint32_t pages, zeros;
    uint64_t chunk_bytes, index_bytes;
};

struct dump_stretch { /* of the journal: dump_stretch.h */
    struct wire_hash name, previous_hash, last_hash;
    uint64_t first_seq, last_seq, stretch_bytes;
};

#define DUMP_APPLICATIONS_MAX 16
struct dump_application {
    char name[64];
    uint32_t version;
};

struct dump_manifest {
    char path[DUMP_NAME_MAX]; /* where it was read; "": nowhere yet */
    char cluster[DUMP_CLUSTER_MAX];
    uint64_t cluster_id;
    struct snapshot_head head;
    struct snapshot_tail tail;
    struct dump_chunk *chunks;
    uint32_t chunk_count, chunk_room;
    struct dump_stretch *stretches; /* in order, none missing between them */
    uint32_t stretch_count, stretch_room;
    struct wire_digest_key digest_key;
    struct dump_application applications[DUMP_APPLICATIONS_MAX];
    uint32_t application_count;
    struct wire_hash previous; /* all zero: none */
    uint64_t previous_seq;
    uint32_t node;
    uint64_t incarnation, wall_us;
    uint8_t public_key[crypto_sign_PUBLICKEYBYTES];
};

struct dump_signer {
    uint8_t public_key[crypto_sign_PUBLICKEYBYTES], secret_key[crypto_sign_SECRETKEYBYTES];
};

/* Reads the key pair at `path`, or draws one and keeps it there. 0, IO, CORRUPT. */
int dump_signer_load(const char *path, struct dump_signer *ret_signer);
/* 32 bytes in hex, alone in a file: what seals objects. 0, IO, MALFORMED. */
int dump_key_load(const char *path, struct dump_key *ret_key);

bool dump_chunk_add(struct dump_manifest *manifest, const struct dump_chunk *chunk);
bool dump_stretch_add(struct dump_manifest *manifest, const struct dump_stretch *stretch);
void dump_manifest_free(struct dump_manifest *manifest);
/* Whether a head or tail is one, whole, of this format version. */
int dump_snapshot_head_check(const struct snapshot_head *head, char *text);
int dump_snapshot_tail_check(const struct snapshot_head *head, const struct snapshot_tail *tail,
                             char *text);

int dump_manifest_encode(const struct dump_manifest *manifest, const struct dump_signer *signer,
                         struct dump_bytes *ret_payload);
int dump_manifest_decode(const struct dump_bytes *payload, struct dump_manifest *ret_manifest,
                         char *text);

void dump_object_path(enum dump_kind kind, const struct wire_hash *name,
                      char ret_path[DUMP_NAME_MAX]);
void dump_manifest_path(uint64_t seq, const struct wire_hash *name, char ret_path[DUMP_NAME_MAX]);
/* False when `path` is not a manifest's. */
bool dump_manifest_path_read(const char *path, uint64_t *ret_seq, struct wire_hash *ret_name);

/* The pointer's text, malloc'ed; NULL without memory. And back: the manifest's path and seq. */
char *dump_pointer_text(const struct dump_manifest *manifest, const char *path);
int dump_pointer_read(const char *text, size_t count, char ret_path[DUMP_NAME_MAX],
                      uint64_t *ret_seq, char *ret_text);

/* The state hash over `count` leaves (runtime/SNAPSHOT.md), which are overwritten. */
struct wire_hash dump_state_hash(struct wire_hash *leaves, uint64_t count);

#endif
