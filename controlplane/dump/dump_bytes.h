/* dump_bytes: bytes that grow at their end.
 *
 * Ownership: the caller's, all zero at first, freed by dump_bytes_free. Any thread, one at a time.
 */
#ifndef MAROON_DUMP_BYTES_H
#define MAROON_DUMP_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dump_bytes {
    uint8_t *at;
    size_t count, room;
};

/* Room for `more` bytes behind the count; false without memory. */
bool dump_bytes_reserve(struct dump_bytes *bytes, size_t more);
bool dump_bytes_add(struct dump_bytes *bytes, const void *from, size_t count);
void dump_bytes_free(struct dump_bytes *bytes);

#endif
