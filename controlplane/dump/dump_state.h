/* dump_state: which chunk holds which page of a dumped state; made from a manifest and its indexes.
 *
 * Threads: one. Errors: as dump_store and dump_pages, with words in `text` (DUMP_TEXT_BYTES). */
#ifndef MAROON_DUMP_STATE_H
#define MAROON_DUMP_STATE_H

#include "controlplane/dump/dump_manifest.h"
#include "controlplane/dump/dump_pages.h"
#include "controlplane/dump/dump_store.h"

#define DUMP_MANIFEST_MAX_BYTES (UINT32_C(256) << 20)
#define DUMP_MARK_NAME "dumping"
#define DUMP_MARK_MAX 160

struct dump_page {
    struct dump_page_hash hash; /* all zero: a page of zeros, in no chunk */
    uint32_t chunk;             /* number in the manifest */
    uint32_t place;             /* of the page in it */
};

struct dump_state {
    struct dump_manifest manifest;
    char path[DUMP_NAME_MAX]; /* of the manifest; "": there is no dump yet */
    uint64_t page_count;
    struct dump_page *pages;
    uint32_t *live; /* by chunk: pages that no later chunk replaced */
};

/* The newest manifest's path, by the pointer. NOT_FOUND: there is none. */
int dump_latest(struct dump_store *store, char ret_path[DUMP_NAME_MAX], uint64_t *ret_seq,
                char *text);
/* The same, with the pointer's text; TOO_LARGE when `room` is too little. */
int dump_pointer_get(struct dump_store *store, char *ret_pointer, size_t room,
                     char ret_path[DUMP_NAME_MAX], uint64_t *ret_seq, char *text);
/* The mark of a dump under way: an object "dumping" that changes about once a second while it
 * lasts. What it says, or "" (none, or it cannot be had), and the node that wrote it. */
void dump_mark_get(struct dump_store *store, char ret_mark[DUMP_MARK_MAX], uint32_t *ret_node);
void dump_mark_put(struct dump_store *store, uint32_t node, uint64_t incarnation, uint64_t beat);
int dump_manifest_get(struct dump_store *store, const struct dump_key *key, const char *path,
                      struct dump_manifest *ret_manifest, char *text);
/* The same from an object that was got. */
int dump_manifest_take(const struct dump_key *key, const char *path,
                       const struct dump_bytes *object, struct dump_manifest *ret_manifest,
                       char *text);
/* Manifest and indexes. *ret_state is untouched on failure. */
int dump_state_load(struct dump_store *store, const struct dump_key *key, const char *path,
                    struct dump_state *ret_state, char *text);
/* No pages yet, no manifest. */
int dump_state_new(uint64_t page_count, struct dump_state *ret_state);
/* Takes a chunk's index in: it becomes the manifest's last. */
int dump_state_add(struct dump_state *state, const struct dump_chunk *chunk,
                   const struct dump_index_entry *entries);
void dump_state_free(struct dump_state *state);

#endif
