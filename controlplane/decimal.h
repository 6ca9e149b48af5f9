/* decimal: numbers in names, query arguments and JSON strings. Pure, any thread. */
#ifndef MAROON_DECIMAL_H
#define MAROON_DECIMAL_H

#include <stdbool.h>
#include <stdint.h>

/* Reads digits and nothing else; false, with *ret_number untouched, for anything more or less, and
 * for what 64 bits cannot hold. */
static inline bool decimal_read(const char *text, uint64_t *ret_number) {
    uint64_t number = 0;
    if (!*text)
        return false;
    for (; *text; text++)
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*text - '0'), &number))
            return false;
    *ret_number = number;
    return true;
}

#endif
