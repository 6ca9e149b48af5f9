/* base64: RFC 4648 §4, standard alphabet, padded; strict. Pure. */
#ifndef MAROON_BASE64_H
#define MAROON_BASE64_H

#include <stddef.h>
#include <stdint.h>

static inline size_t base64_encoded_bytes(size_t bytes) {
    return (bytes + 2) / 3 * 4;
}

/* Writes base64_encoded_bytes(count) characters and a NUL. */
void base64_encode(const void *bytes, size_t count, char *ret_text);

/* Decodes `length` characters into at most length / 4 * 3 bytes. Returns 0 with *ret_count, or
 * MRN_ERR_MALFORMED. */
int base64_decode(const char *text, size_t length, unsigned char *ret_bytes, size_t *ret_count);

#endif
