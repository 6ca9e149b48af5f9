/* camel: a field's name as protobuf's JSON has it, lowerCamelCase. Pure. */
#ifndef MAROON_TRANSCODE_CAMEL_H
#define MAROON_TRANSCODE_CAMEL_H

#include <stdbool.h>

/* The next character; *name goes past what it is made of. 0 at the end. */
static inline char camel_next(const char **name) {
    bool up = false;
    for (; **name == '_'; ++*name)
        up = true;
    char c = **name;
    if (c)
        ++*name;
    return up && c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
}

#endif
