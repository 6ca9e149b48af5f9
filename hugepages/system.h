/* system: what /sys and /proc say and are told, read as text under a root.
 *
 * Vocabulary
 *   root   "" for this machine; in tests a directory with a made-up tree
 *   list   numbers as the kernel writes them: "0-3,8"
 *
 * Paths are printf formats without a slash at their beginning ("proc/mounts"). Threads: any.
 * Ownership: the root stays the caller's. Errors: MRN_ERR_NOT_FOUND (no such file), MRN_ERR_DENIED,
 * MRN_ERR_MALFORMED (not what it should hold), MRN_ERR_IO; results are untouched then. */
#ifndef MAROON_SYSTEM_H
#define MAROON_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SYSTEM_PATH_BYTES 512
#define SYSTEM_CPUS_MAX 1024

struct system {
    const char *root;
};

struct system_cpus {
    uint64_t bits[SYSTEM_CPUS_MAX / 64];
    uint32_t count;
};

/* The whole path. */
const char *system_path(const struct system *system, char path[SYSTEM_PATH_BYTES],
                        const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The file's text without blanks at its end, cut to `room`. Returns 0 or an error. */
int system_read(const struct system *system, char *ret_text, size_t room, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A file that holds one number, which may be negative. */
int system_number(const struct system *system, int64_t *ret_number, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Writes a file that exists. */
int system_write(const struct system *system, const char *text, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

bool system_exists(const struct system *system, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The last part of what a link points to ("vfio-pci"). */
int system_link(const struct system *system, char *ret_name, size_t room, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The number after `key` in a text of lines "key   number ..." (/proc/meminfo, limits). False when
 * there is none. */
bool system_field(const char *text, const char *key, uint64_t *ret_number);

/* Parses a list. Returns 0 or MRN_ERR_MALFORMED. "" is the empty list. */
int system_cpus_parse(const char *list, struct system_cpus *ret_cpus);
bool system_cpus_has(const struct system_cpus *cpus, uint32_t cpu);

#endif
