#include "controlplane/dump/dump_object.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "maroon/error.h"

#define PIECE_BYTES 65536 /* of a sealed payload */

struct head {
    uint8_t magic[6];
    uint8_t version, kind;
    uint8_t sealed, reserved[3];
    uint32_t payload_bytes;
};
static_assert(sizeof(struct head) == 16, "no padding");

static const uint8_t MAGIC[6] = {'m', 'r', 'n', 'o', 'b', 'j'};

int dump_payload_pack(struct dump_bytes *payload, const void *head, size_t head_bytes,
                      const void *raw, size_t raw_bytes, int level) {
    size_t bound = ZSTD_compressBound(raw_bytes);
    payload->count = 0;
    if (!dump_bytes_reserve(payload, head_bytes + bound) ||
        !dump_bytes_add(payload, head, head_bytes))
        return MRN_ERR_NO_MEMORY;
    size_t packed = ZSTD_compress(payload->at + payload->count, bound, raw, raw_bytes, level);
    if (ZSTD_isError(packed))
        return MRN_ERR_NO_MEMORY; /* the room is enough: it can only lack memory of its own */
    payload->count += packed;
    return 0;
}

const char *dump_kind_folder(enum dump_kind kind) {
    switch (kind) {
    case DUMP_CHUNK: return "chunks";
    case DUMP_INDEX: return "indexes";
    case DUMP_STRETCH: return "stretches";
    case DUMP_MANIFEST: return "manifests";
    }
    return "";
}

struct wire_hash dump_object_name(const struct dump_key *key, const void *payload, size_t count) {
    return wire_hash_blake2b_pair(key->bytes, key->set ? sizeof key->bytes : 0, payload, count);
}

/* ---- sealing: a header, then pieces; the last one carries the final tag ---- */

static int seal(const struct dump_key *key, const struct head *head, const uint8_t *payload,
                size_t count, struct dump_bytes *object) {
    crypto_secretstream_xchacha20poly1305_state state;
    uint8_t start[crypto_secretstream_xchacha20poly1305_HEADERBYTES];
    uint8_t piece[PIECE_BYTES + crypto_secretstream_xchacha20poly1305_ABYTES];
    crypto_secretstream_xchacha20poly1305_init_push(&state, start, key->bytes);
    bool room = dump_bytes_add(object, start, sizeof start);
    size_t at = 0;
    do {
        size_t length = count - at < PIECE_BYTES ? count - at : PIECE_BYTES;
        unsigned long long sealed;
        uint8_t tag =
            at + length == count ? crypto_secretstream_xchacha20poly1305_TAG_FINAL : (uint8_t)0;
        crypto_secretstream_xchacha20poly1305_push(&state, piece, &sealed, payload + at, length,
                                                   (const uint8_t *)head, sizeof *head, tag);
        room = room && dump_bytes_add(object, piece, (size_t)sealed);
        at += length;
    } while (at < count);
    return room ? 0 : MRN_ERR_NO_MEMORY;
}

static int unseal(const struct dump_key *key, const struct head *head, const uint8_t *from,
                  size_t count, struct dump_bytes *payload) {
    crypto_secretstream_xchacha20poly1305_state state;
    const size_t start = crypto_secretstream_xchacha20poly1305_HEADERBYTES;
    const size_t overhead = crypto_secretstream_xchacha20poly1305_ABYTES;
    uint8_t tag = 0;
    if (count < start || crypto_secretstream_xchacha20poly1305_init_pull(&state, from, key->bytes))
        return MRN_ERR_CORRUPT;
    if (!dump_bytes_reserve(payload, head->payload_bytes + 1))
        return MRN_ERR_NO_MEMORY;
    for (size_t at = start; at < count;) {
        size_t length = count - at < PIECE_BYTES + overhead ? count - at : PIECE_BYTES + overhead;
        unsigned long long opened;
        if (tag || length < overhead || payload->count + length - overhead > head->payload_bytes ||
            crypto_secretstream_xchacha20poly1305_pull(&state, payload->at + payload->count,
                                                       &opened, &tag, from + at, length,
                                                       (const uint8_t *)head, sizeof *head))
            return MRN_ERR_DENIED;
        payload->count += (size_t)opened;
        at += length;
    }
    return tag == crypto_secretstream_xchacha20poly1305_TAG_FINAL ? 0 : MRN_ERR_CORRUPT;
}

/* ---- objects ---- */

int dump_object_make(enum dump_kind kind, const struct dump_key *key, const void *payload,
                     size_t count, struct dump_bytes *ret_object, struct wire_hash *ret_name) {
    struct head head = {.version = DUMP_FORMAT_VERSION,
                        .kind = (uint8_t)kind,
                        .sealed = key->set,
                        .payload_bytes = (uint32_t)count};
    assert(count <= DUMP_PAYLOAD_MAX_BYTES);
    memcpy(head.magic, MAGIC, sizeof MAGIC);
    *ret_name = dump_object_name(key, payload, count);
    ret_object->count = 0;
    if (!dump_bytes_add(ret_object, &head, sizeof head))
        return MRN_ERR_NO_MEMORY;
    if (key->set)
        return seal(key, &head, payload, count, ret_object);
    return dump_bytes_add(ret_object, payload, count) ? 0 : MRN_ERR_NO_MEMORY;
}

static int wrong(char *text, int error, const char *what) {
    snprintf(text, DUMP_TEXT_BYTES, "%s", what);
    return error;
}

static int head_check(enum dump_kind kind, const struct dump_key *key, const struct head *head,
                      char *text) {
    if (memcmp(head->magic, MAGIC, sizeof MAGIC) != 0)
        return wrong(text, MRN_ERR_CORRUPT, "not an object of a dump");
    if (head->version != DUMP_FORMAT_VERSION) {
        snprintf(
            text, DUMP_TEXT_BYTES,
            "format version %u; this program reads version %u: use the one that wrote it, or a "
            "newer one",
            head->version, DUMP_FORMAT_VERSION);
        return MRN_ERR_UNSUPPORTED;
    }
    if (head->kind != (uint8_t)kind)
        return wrong(text, MRN_ERR_MISMATCH, "another kind of object");
    if (head->sealed > 1 || head->payload_bytes > DUMP_PAYLOAD_MAX_BYTES)
        return wrong(text, MRN_ERR_CORRUPT, "a damaged head");
    if (head->sealed && !key->set)
        return wrong(text, MRN_ERR_DENIED, "sealed: its key file is needed (dump-key-file)");
    if (!head->sealed && key->set)
        return wrong(text, MRN_ERR_DENIED, "not sealed, though a key file is given");
    return 0;
}

int dump_object_view(enum dump_kind kind, const struct dump_key *key, const struct wire_hash *name,
                     const void *object, size_t count, struct dump_bytes *room,
                     struct dump_bytes *ret_view, char *text) {
    struct head head;
    if (count < sizeof head)
        return wrong(text, MRN_ERR_CORRUPT, "cut short");
    memcpy(&head, object, sizeof head);
    int error = head_check(kind, key, &head, text);
    if (error)
        return error;
    uint8_t *from = (uint8_t *)(uintptr_t)object + sizeof head;
    struct dump_bytes view = {from, count - sizeof head, 0};
    room->count = 0;
    if (head.sealed && !(error = unseal(key, &head, from, count - sizeof head, room)))
        view = (struct dump_bytes){room->at, room->count, 0};
    if (!error && view.count != head.payload_bytes)
        error = MRN_ERR_CORRUPT;
    if (error)
        return wrong(text, error,
                     error == MRN_ERR_DENIED    ? "sealed with another key, or damaged"
                     : error == MRN_ERR_CORRUPT ? "cut short or damaged"
                                                : "no memory");
    if (name) {
        struct wire_hash found = dump_object_name(key, view.at, view.count);
        if (memcmp(&found, name, sizeof found) != 0)
            return wrong(text, MRN_ERR_CORRUPT, "its bytes are not those that its name stands for");
    }
    *ret_view = view;
    return 0;
}

int dump_object_open(enum dump_kind kind, const struct dump_key *key, const struct wire_hash *name,
                     const void *object, size_t count, struct dump_bytes *ret_payload, char *text) {
    struct dump_bytes view;
    int error = dump_object_view(kind, key, name, object, count, ret_payload, &view, text);
    if (error || view.at == ret_payload->at)
        return error;
    ret_payload->count = 0;
    return dump_bytes_add(ret_payload, view.at, view.count)
               ? 0
               : wrong(text, MRN_ERR_NO_MEMORY, "no memory");
}

/* ---- names ---- */

void dump_name_text(const struct wire_hash *name, char ret_text[65]) {
    sodium_bin2hex(ret_text, 65, name->bytes, sizeof name->bytes);
}

bool dump_name_of_text(const char *text, struct wire_hash *ret_name) {
    size_t count;
    return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64 &&
           sodium_hex2bin(ret_name->bytes, sizeof ret_name->bytes, text, 64, NULL, &count, NULL) ==
               0 &&
           count == sizeof ret_name->bytes;
}
