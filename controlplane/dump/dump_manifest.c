#include "controlplane/dump/dump_manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controlplane/dump/dump_pages.h"
#include "dump.pb-c.h"
#include "maroon/error.h"

#define FANOUT 64
#define CHUNKS_MAX 1000000
#define STRETCHES_MAX 1000000

static int wrong(char *text, int error, const char *what) {
    snprintf(text, DUMP_TEXT_BYTES, "%s", what);
    return error;
}

int dump_signer_load(const char *path, struct dump_signer *ret_signer) {
    struct dump_signer signer;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t got = read(fd, signer.secret_key, sizeof signer.secret_key);
        close(fd);
        if (got != sizeof signer.secret_key)
            return MRN_ERR_CORRUPT;
        crypto_sign_ed25519_sk_to_pk(signer.public_key, signer.secret_key);
    } else {
        if (errno != ENOENT)
            return MRN_ERR_IO;
        crypto_sign_keypair(signer.public_key, signer.secret_key);
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
            return MRN_ERR_IO;
        bool kept = write(fd, signer.secret_key, sizeof signer.secret_key) ==
                        (ssize_t)sizeof signer.secret_key &&
                    fsync(fd) == 0;
        close(fd);
        if (!kept) {
            (void)unlink(path);
            return MRN_ERR_IO;
        }
    }
    *ret_signer = signer;
    return 0;
}

int dump_key_load(const char *path, struct dump_key *ret_key) {
    char text[80] = "";
    struct dump_key key = {.set = true};
    size_t count = 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return MRN_ERR_IO;
    bool read = fgets(text, sizeof text, file) != NULL;
    (void)fclose(file);
    text[strcspn(text, "\r\n")] = '\0';
    if (!read || strlen(text) != 64 ||
        sodium_hex2bin(key.bytes, sizeof key.bytes, text, 64, NULL, &count, NULL) ||
        count != sizeof key.bytes)
        return MRN_ERR_MALFORMED;
    *ret_key = key;
    return 0;
}

bool dump_chunk_add(struct dump_manifest *manifest, const struct dump_chunk *chunk) {
    if (manifest->chunk_count == manifest->chunk_room) {
        uint32_t room = manifest->chunk_room ? 2 * manifest->chunk_room : 64;
        struct dump_chunk *grown = realloc(manifest->chunks, room * sizeof *grown);
        if (!grown)
            return false;
        manifest->chunks = grown;
        manifest->chunk_room = room;
    }
    manifest->chunks[manifest->chunk_count++] = *chunk;
    return true;
}

bool dump_stretch_add(struct dump_manifest *manifest, const struct dump_stretch *stretch) {
    if (manifest->stretch_count == manifest->stretch_room) {
        uint32_t room = manifest->stretch_room ? 2 * manifest->stretch_room : 16;
        struct dump_stretch *grown = realloc(manifest->stretches, room * sizeof *grown);
        if (!grown)
            return false;
        manifest->stretches = grown;
        manifest->stretch_room = room;
    }
    manifest->stretches[manifest->stretch_count++] = *stretch;
    return true;
}

void dump_manifest_free(struct dump_manifest *manifest) {
    free(manifest->chunks);
    free(manifest->stretches);
    memset(manifest, 0, sizeof *manifest);
}

int dump_snapshot_head_check(const struct snapshot_head *head, char *text) {
    struct wire_hash sum = wire_hash_blake2b(head, offsetof(struct snapshot_head, checksum));
    if (memcmp(head->magic, SNAPSHOT_MAGIC, sizeof SNAPSHOT_MAGIC) != 0)
        return wrong(text, MRN_ERR_CORRUPT, "not a snapshot");
    if (head->format_version != SNAPSHOT_FORMAT_VERSION) {
        snprintf(text, DUMP_TEXT_BYTES,
                 "a state of format version %" PRIu32
                 ", this program reads %d: use the program that wrote it",
                 head->format_version, SNAPSHOT_FORMAT_VERSION);
        return MRN_ERR_UNSUPPORTED;
    }
    if (head->head_bytes != sizeof *head || head->page_bytes != DUMP_PAGE_BYTES)
        return wrong(text, MRN_ERR_UNSUPPORTED, "a snapshot of another format version");
    if (memcmp(&sum, &head->checksum, sizeof sum) != 0 || head->region_bytes % DUMP_PAGE_BYTES ||
        !head->region_bytes || head->region_bytes >> 44)
        return wrong(text, MRN_ERR_CORRUPT, "the head of the snapshot is damaged");
    return 0;
}

int dump_snapshot_tail_check(const struct snapshot_head *head, const struct snapshot_tail *tail,
                             char *text) {
    struct wire_hash sum =
        wire_hash_blake2b_pair(head, sizeof *head, tail, offsetof(struct snapshot_tail, checksum));
    if (memcmp(tail->magic, SNAPSHOT_TAIL_MAGIC, sizeof SNAPSHOT_TAIL_MAGIC) != 0 ||
        memcmp(&sum, &tail->checksum, sizeof sum) != 0 ||
        tail->page_count > head->region_bytes / DUMP_PAGE_BYTES)
        return wrong(text, MRN_ERR_CORRUPT, "the tail of the snapshot is damaged");
    return 0;
}

static ProtobufCBinaryData binary(const void *bytes, size_t count) {
    return (ProtobufCBinaryData){count, (uint8_t *)(uintptr_t)bytes};
}

static bool hash_none(const struct wire_hash *hash) {
    static const struct wire_hash none;
    return memcmp(hash, &none, sizeof none) == 0;
}

/* Messages of a manifest's lists, and what points to them. */
struct lists {
    Dump__V1__Chunk *chunks, **chunk_pointers;
    Dump__V1__Stretch *stretches, **stretch_pointers;
    Dump__V1__Application applications[DUMP_APPLICATIONS_MAX];
    Dump__V1__Application *application_pointers[DUMP_APPLICATIONS_MAX];
};

static bool lists_make(struct lists *lists, const struct dump_manifest *manifest) {
    lists->chunks = calloc(manifest->chunk_count + 1, sizeof *lists->chunks);
    lists->chunk_pointers = calloc(manifest->chunk_count + 1, sizeof(Dump__V1__Chunk *));
    lists->stretches = calloc(manifest->stretch_count + 1, sizeof *lists->stretches);
    lists->stretch_pointers = calloc(manifest->stretch_count + 1, sizeof(Dump__V1__Stretch *));
    return lists->chunks && lists->chunk_pointers && lists->stretches && lists->stretch_pointers;
}

static void lists_free(struct lists *lists) {
    free(lists->chunks);
    free(lists->chunk_pointers);
    free(lists->stretches);
    free(lists->stretch_pointers);
}

static void put_chunks(const struct dump_manifest *manifest, struct lists *lists) {
    for (uint32_t i = 0; i < manifest->chunk_count; i++) {
        const struct dump_chunk *chunk = &manifest->chunks[i];
        Dump__V1__Chunk *message = lists->chunk_pointers[i] = &lists->chunks[i];
        dump__v1__chunk__init(message);
        message->name = binary(&chunk->name, sizeof chunk->name);
        message->index = binary(&chunk->index, sizeof chunk->index);
        message->pages = chunk->pages;
        message->zeros = chunk->zeros;
        message->chunk_bytes = chunk->chunk_bytes;
        message->index_bytes = chunk->index_bytes;
    }
}

static void put_history(const struct dump_manifest *manifest, struct lists *lists) {
    for (uint32_t i = 0; i < manifest->stretch_count; i++) {
        const struct dump_stretch *stretch = &manifest->stretches[i];
        Dump__V1__Stretch *message = lists->stretch_pointers[i] = &lists->stretches[i];
        dump__v1__stretch__init(message);
        message->name = binary(&stretch->name, sizeof stretch->name);
        message->first_seq = stretch->first_seq;
        message->last_seq = stretch->last_seq;
        message->previous_hash = binary(&stretch->previous_hash, sizeof stretch->previous_hash);
        message->last_hash = binary(&stretch->last_hash, sizeof stretch->last_hash);
        message->stretch_bytes = stretch->stretch_bytes;
    }
    for (uint32_t i = 0; i < manifest->application_count; i++) {
        Dump__V1__Application *message = lists->application_pointers[i] = &lists->applications[i];
        dump__v1__application__init(message);
        message->name = (char *)(uintptr_t)manifest->applications[i].name;
        message->version = manifest->applications[i].version;
    }
}

/* Serializes the inner message. */
static int encode_inner(const struct dump_manifest *manifest, struct lists *lists,
                        struct dump_bytes *ret_bytes) {
    Dump__V1__Manifest message = DUMP__V1__MANIFEST__INIT;
    message.format_version = DUMP_FORMAT_VERSION;
    message.cluster = (char *)(uintptr_t)manifest->cluster;
    message.cluster_id = manifest->cluster_id;
    message.snapshot_head = binary(&manifest->head, sizeof manifest->head);
    message.snapshot_tail = binary(&manifest->tail, sizeof manifest->tail);
    if (!hash_none(&manifest->previous))
        message.previous = binary(&manifest->previous, sizeof manifest->previous);
    message.previous_seq = manifest->previous_seq;
    message.node = manifest->node;
    message.incarnation = manifest->incarnation;
    message.wall_us = manifest->wall_us;
    message.digest_key = binary(&manifest->digest_key, sizeof manifest->digest_key);
    put_chunks(manifest, lists);
    put_history(manifest, lists);
    message.n_chunks = manifest->chunk_count;
    message.chunks = lists->chunk_pointers;
    message.n_stretches = manifest->stretch_count;
    message.stretches = lists->stretch_pointers;
    message.n_applications = manifest->application_count;
    message.applications = lists->application_pointers;
    size_t count = dump__v1__manifest__get_packed_size(&message);
    ret_bytes->count = 0;
    if (!dump_bytes_reserve(ret_bytes, count))
        return MRN_ERR_NO_MEMORY;
    ret_bytes->count = dump__v1__manifest__pack(&message, ret_bytes->at);
    return 0;
}

int dump_manifest_encode(const struct dump_manifest *manifest, const struct dump_signer *signer,
                         struct dump_bytes *ret_payload) {
    struct dump_bytes inner = {0};
    struct lists lists = {0};
    int error =
        lists_make(&lists, manifest) ? encode_inner(manifest, &lists, &inner) : MRN_ERR_NO_MEMORY;
    lists_free(&lists);
    if (!error) {
        uint8_t signature[crypto_sign_BYTES];
        crypto_sign_detached(signature, NULL, inner.at, inner.count, signer->secret_key);
        Dump__V1__SignedManifest whole = DUMP__V1__SIGNED_MANIFEST__INIT;
        whole.manifest = binary(inner.at, inner.count);
        whole.public_key = binary(signer->public_key, sizeof signer->public_key);
        whole.signature = binary(signature, sizeof signature);
        size_t count = dump__v1__signed_manifest__get_packed_size(&whole);
        ret_payload->count = 0;
        if (dump_bytes_reserve(ret_payload, count))
            ret_payload->count = dump__v1__signed_manifest__pack(&whole, ret_payload->at);
        else
            error = MRN_ERR_NO_MEMORY;
    }
    dump_bytes_free(&inner);
    return error;
}

static int take_chunks(const Dump__V1__Manifest *message, struct dump_manifest *manifest,
                       char *text) {
    if (message->n_chunks > CHUNKS_MAX)
        return wrong(text, MRN_ERR_CORRUPT, "a manifest of too many chunks");
    for (size_t i = 0; i < message->n_chunks; i++) {
        const Dump__V1__Chunk *from = message->chunks[i];
        struct dump_chunk chunk = {.pages = from->pages,
                                   .zeros = from->zeros,
                                   .chunk_bytes = from->chunk_bytes,
                                   .index_bytes = from->index_bytes};
        if (from->name.len != sizeof chunk.name || from->index.len != sizeof chunk.index ||
            from->pages > DUMP_CHUNK_PAGES)
            return wrong(text, MRN_ERR_CORRUPT, "a manifest with a chunk that cannot be");
        memcpy(&chunk.name, from->name.data, sizeof chunk.name);
        memcpy(&chunk.index, from->index.data, sizeof chunk.index);
        if (!dump_chunk_add(manifest, &chunk))
            return wrong(text, MRN_ERR_NO_MEMORY, "no memory");
    }
    return 0;
}

/* Each must begin where the one before ended, and the last end at the snapshot. */
static int take_stretches(const Dump__V1__Manifest *message, struct dump_manifest *manifest,
                          char *text) {
    uint64_t next = 0;
    for (size_t i = 0; i < message->n_stretches && i < STRETCHES_MAX; i++) {
        const Dump__V1__Stretch *from = message->stretches[i];
        struct dump_stretch stretch = {.first_seq = from->first_seq,
                                       .last_seq = from->last_seq,
                                       .stretch_bytes = from->stretch_bytes};
        if (from->name.len != sizeof stretch.name ||
            from->previous_hash.len != sizeof stretch.previous_hash ||
            from->last_hash.len != sizeof stretch.last_hash || !stretch.first_seq ||
            stretch.last_seq < stretch.first_seq || (next && stretch.first_seq != next))
            return wrong(text, MRN_ERR_CORRUPT, "a manifest with a stretch that cannot be");
        next = stretch.last_seq + 1;
        memcpy(&stretch.name, from->name.data, sizeof stretch.name);
        memcpy(&stretch.previous_hash, from->previous_hash.data, sizeof stretch.previous_hash);
        memcpy(&stretch.last_hash, from->last_hash.data, sizeof stretch.last_hash);
        if (!dump_stretch_add(manifest, &stretch))
            return wrong(text, MRN_ERR_NO_MEMORY, "no memory");
    }
    const struct dump_stretch *last =
        manifest->stretch_count ? &manifest->stretches[manifest->stretch_count - 1] : NULL;
    if (message->n_stretches > STRETCHES_MAX ||
        (last &&
         (last->last_seq != manifest->head.seq ||
          memcmp(&last->last_hash, &manifest->head.epoch_hash, sizeof last->last_hash) != 0)))
        return wrong(text, MRN_ERR_CORRUPT,
                     "a manifest whose stretches do not end at its snapshot");
    return 0;
}

static int take_applications(const Dump__V1__Manifest *message, struct dump_manifest *manifest,
                             char *text) {
    if (message->n_applications > DUMP_APPLICATIONS_MAX ||
        message->digest_key.len != sizeof manifest->digest_key)
        return wrong(text, MRN_ERR_CORRUPT, "a manifest with a field of a wrong length");
    memcpy(&manifest->digest_key, message->digest_key.data, sizeof manifest->digest_key);
    for (size_t i = 0; i < message->n_applications; i++) {
        struct dump_application *to = &manifest->applications[manifest->application_count++];
        snprintf(to->name, sizeof to->name, "%s", message->applications[i]->name);
        to->version = message->applications[i]->version;
    }
    return 0;
}

static int take_inner(const Dump__V1__Manifest *message, struct dump_manifest *manifest,
                      char *text) {
    if (message->format_version != DUMP_FORMAT_VERSION)
        return wrong(text, MRN_ERR_UNSUPPORTED,
                     "a manifest of another format version: use the program that wrote it, or a "
                     "newer one");
    if (message->snapshot_head.len != sizeof manifest->head ||
        message->snapshot_tail.len != sizeof manifest->tail ||
        strlen(message->cluster) >= sizeof manifest->cluster ||
        (message->previous.len && message->previous.len != sizeof manifest->previous))
        return wrong(text, MRN_ERR_CORRUPT, "a manifest with a field of a wrong length");
    memcpy(&manifest->head, message->snapshot_head.data, sizeof manifest->head);
    memcpy(&manifest->tail, message->snapshot_tail.data, sizeof manifest->tail);
    memcpy(manifest->cluster, message->cluster, strlen(message->cluster) + 1);
    if (message->previous.len)
        memcpy(&manifest->previous, message->previous.data, sizeof manifest->previous);
    manifest->previous_seq = message->previous_seq;
    manifest->cluster_id = message->cluster_id;
    manifest->node = message->node;
    manifest->incarnation = message->incarnation;
    manifest->wall_us = message->wall_us;
    int error = dump_snapshot_head_check(&manifest->head, text);
    if (!error)
        error = dump_snapshot_tail_check(&manifest->head, &manifest->tail, text);
    if (!error)
        error = take_chunks(message, manifest, text);
    if (!error)
        error = take_stretches(message, manifest, text);
    return error ? error : take_applications(message, manifest, text);
}

int dump_manifest_decode(const struct dump_bytes *payload, struct dump_manifest *ret_manifest,
                         char *text) {
    struct dump_manifest manifest = {0};
    Dump__V1__SignedManifest *whole =
        dump__v1__signed_manifest__unpack(NULL, payload->count, payload->at);
    if (!whole)
        return wrong(text, MRN_ERR_CORRUPT, "a manifest that cannot be read");
    int error = 0;
    if (whole->public_key.len != crypto_sign_PUBLICKEYBYTES ||
        whole->signature.len != crypto_sign_BYTES ||
        crypto_sign_verify_detached(whole->signature.data, whole->manifest.data,
                                    whole->manifest.len, whole->public_key.data))
        error = wrong(text, MRN_ERR_DENIED, "a manifest whose signature is not its key's");
    else
        memcpy(manifest.public_key, whole->public_key.data, sizeof manifest.public_key);
    Dump__V1__Manifest *inner =
        error ? NULL : dump__v1__manifest__unpack(NULL, whole->manifest.len, whole->manifest.data);
    if (!error)
        error = inner ? take_inner(inner, &manifest, text)
                      : wrong(text, MRN_ERR_CORRUPT, "a manifest that cannot be read");
    if (inner)
        dump__v1__manifest__free_unpacked(inner, NULL);
    dump__v1__signed_manifest__free_unpacked(whole, NULL);
    if (error)
        dump_manifest_free(&manifest);
    else
        *ret_manifest = manifest;
    return error;
}

/* ---- names ---- */

void dump_object_path(enum dump_kind kind, const struct wire_hash *name,
                      char ret_path[DUMP_NAME_MAX]) {
    char text[65];
    dump_name_text(name, text);
    snprintf(ret_path, DUMP_NAME_MAX, "%s/%.2s/%s", dump_kind_folder(kind), text, text);
}

void dump_manifest_path(uint64_t seq, const struct wire_hash *name, char ret_path[DUMP_NAME_MAX]) {
    char text[65];
    dump_name_text(name, text);
    snprintf(ret_path, DUMP_NAME_MAX, "%s/%016" PRIx64 "-%s", dump_kind_folder(DUMP_MANIFEST), seq,
             text);
}

bool dump_manifest_path_read(const char *path, uint64_t *ret_seq, struct wire_hash *ret_name) {
    const char *folder = dump_kind_folder(DUMP_MANIFEST);
    size_t skip = strlen(folder);
    if (strncmp(path, folder, skip) != 0 || path[skip] != '/' || strlen(path) != skip + 82 ||
        path[skip + 17] != '-' || strspn(path + skip + 1, "0123456789abcdef") != 16)
        return false;
    *ret_seq = strtoull(path + skip + 1, NULL, 16);
    return dump_name_of_text(path + skip + 18, ret_name);
}

/* ---- the pointer ---- */

char *dump_pointer_text(const struct dump_manifest *manifest, const char *path) {
    char seq[24], epoch_hash[65], state_hash[65];
    snprintf(seq, sizeof seq, "%" PRIu64, manifest->head.seq);
    dump_name_text(&manifest->head.epoch_hash, epoch_hash);
    dump_name_text(&manifest->tail.state_hash, state_hash);
    json_t *object = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s}", "format", DUMP_FORMAT_VERSION,
                               "manifest", path, "seq", seq, "epochHash", epoch_hash, "stateHash",
                               state_hash, "cluster", manifest->cluster);
    char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    json_decref(object);
    return text;
}

int dump_pointer_read(const char *text, size_t count, char ret_path[DUMP_NAME_MAX],
                      uint64_t *ret_seq, char *ret_text) {
    struct wire_hash name;
    json_t *object = json_loadb(text, count, JSON_REJECT_DUPLICATES, NULL);
    const char *path = json_string_value(json_object_get(object, "manifest"));
    int error = 0;
    if (json_integer_value(json_object_get(object, "format")) > DUMP_FORMAT_VERSION)
        error = wrong(ret_text, MRN_ERR_UNSUPPORTED, "the pointer is of a newer format version");
    else if (!path || !dump_manifest_path_read(path, ret_seq, &name))
        error = wrong(ret_text, MRN_ERR_CORRUPT, "the pointer `latest` cannot be read");
    else
        snprintf(ret_path, DUMP_NAME_MAX, "%s", path);
    json_decref(object);
    return error;
}

struct wire_hash dump_state_hash(struct wire_hash *leaves, uint64_t count) {
    uint64_t pages = count;
    do {
        uint64_t above = (count + FANOUT - 1) / FANOUT;
        for (uint64_t i = 0; i < above; i++) {
            uint64_t first = i * FANOUT, width = count - first < FANOUT ? count - first : FANOUT;
            bool zeros = true;
            for (uint64_t j = 0; zeros && j < width; j++)
                zeros = hash_none(&leaves[first + j]);
            leaves[i] = zeros ? (struct wire_hash){{0}}
                              : wire_hash_blake2b(&leaves[first], width * sizeof *leaves);
        }
        count = above;
    } while (count > 1);
    return wire_hash_blake2b_pair(&leaves[0], sizeof leaves[0], &pages, sizeof pages);
}
