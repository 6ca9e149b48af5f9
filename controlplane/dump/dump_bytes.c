#include "controlplane/dump/dump_bytes.h"

#include <stdlib.h>
#include <string.h>

bool dump_bytes_reserve(struct dump_bytes *bytes, size_t more) {
    if (bytes->room - bytes->count >= more)
        return true;
    size_t room = 2 * bytes->room > bytes->count + more ? 2 * bytes->room : bytes->count + more;
    uint8_t *grown = realloc(bytes->at, room);
    if (!grown)
        return false;
    bytes->at = grown;
    bytes->room = room;
    return true;
}

bool dump_bytes_add(struct dump_bytes *bytes, const void *from, size_t count) {
    if (!dump_bytes_reserve(bytes, count))
        return false;
    if (count)
        memcpy(bytes->at + bytes->count, from, count);
    bytes->count += count;
    return true;
}

void dump_bytes_free(struct dump_bytes *bytes) {
    free(bytes->at);
    *bytes = (struct dump_bytes){0};
}
