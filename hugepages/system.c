#include "hugepages/system.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <maroon/error.h>

static void path_make(const struct system *s, char *path, const char *format, va_list arguments) {
    int at = snprintf(path, SYSTEM_PATH_BYTES, "%s/", s->root);
    if (at > 0 && at < SYSTEM_PATH_BYTES)
        vsnprintf(path + at, (size_t)(SYSTEM_PATH_BYTES - at), format, arguments);
}

#define PATH(path, system, format)                  \
    do {                                            \
        va_list arguments;                          \
        va_start(arguments, format);                \
        path_make(system, path, format, arguments); \
        va_end(arguments);                          \
    } while (0)

const char *system_path(const struct system *s, char path[SYSTEM_PATH_BYTES], const char *format,
                        ...) {
    PATH(path, s, format);
    return path;
}

static int error_of(int number) {
    return number == ENOENT || number == ENOTDIR || number == ENODEV ? MRN_ERR_NOT_FOUND
           : number == EACCES || number == EPERM || number == EROFS  ? MRN_ERR_DENIED
                                                                     : MRN_ERR_IO;
}

static int read_path(const char *path, char *ret_text, size_t room) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return error_of(errno);
    size_t length = 0;
    ssize_t got;
    while (length + 1 < room && (got = read(file, ret_text + length, room - 1 - length)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int error = error_of(errno);
            close(file);
            return error;
        }
        length += (size_t)got;
    }
    close(file);
    while (length > 0 && strchr(" \n\t", ret_text[length - 1]))
        length--;
    ret_text[length] = '\0';
    return 0;
}

int system_read(const struct system *s, char *ret_text, size_t room, const char *format, ...) {
    char path[SYSTEM_PATH_BYTES];
    PATH(path, s, format);
    return read_path(path, ret_text, room);
}

int system_number(const struct system *s, int64_t *ret_number, const char *format, ...) {
    char path[SYSTEM_PATH_BYTES], text[64], *end;
    PATH(path, s, format);
    int error = read_path(path, text, sizeof text);
    if (error)
        return error;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno || end == text || *end)
        return MRN_ERR_MALFORMED;
    *ret_number = number;
    return 0;
}

int system_write(const struct system *s, const char *text, const char *format, ...) {
    char path[SYSTEM_PATH_BYTES];
    PATH(path, s, format);
    int file = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    if (file < 0)
        return error_of(errno);
    size_t length = strlen(text);
    ssize_t put = write(file, text, length);
    int error = put < 0 ? error_of(errno) : (size_t)put < length ? MRN_ERR_IO : 0;
    if (close(file) && !error)
        error = error_of(errno);
    return error;
}

bool system_exists(const struct system *s, const char *format, ...) {
    char path[SYSTEM_PATH_BYTES];
    PATH(path, s, format);
    return access(path, F_OK) == 0;
}

int system_link(const struct system *s, char *ret_name, size_t room, const char *format, ...) {
    char path[SYSTEM_PATH_BYTES], target[SYSTEM_PATH_BYTES];
    PATH(path, s, format);
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length < 0)
        return error_of(errno);
    target[length] = '\0';
    const char *slash = strrchr(target, '/');
    snprintf(ret_name, room, "%s", slash ? slash + 1 : target);
    return 0;
}

bool system_field(const char *text, const char *key, uint64_t *ret_number) {
    size_t length = strlen(key);
    for (const char *at = text; (at = strstr(at, key)) != NULL; at += length) {
        char *end;
        const char *value = at + length + strspn(at + length, " \t");
        unsigned long long number = strtoull(value, &end, 10);
        if (end == value)
            continue;
        *ret_number = number;
        return true;
    }
    return false;
}

int system_cpus_parse(const char *list, struct system_cpus *ret_cpus) {
    struct system_cpus cpus = {.count = 0};
    while (*list) {
        char *end;
        unsigned long first = strtoul(list, &end, 10), last = first;
        if (end == list)
            return MRN_ERR_MALFORMED;
        if (*end == '-') {
            list = end + 1;
            last = strtoul(list, &end, 10);
            if (end == list)
                return MRN_ERR_MALFORMED;
        }
        if (last < first || last >= SYSTEM_CPUS_MAX || (*end && *end != ','))
            return MRN_ERR_MALFORMED;
        for (unsigned long cpu = first; cpu <= last; cpu++) {
            cpus.count += !(cpus.bits[cpu / 64] >> cpu % 64 & 1);
            cpus.bits[cpu / 64] |= UINT64_C(1) << cpu % 64;
        }
        list = *end ? end + 1 : end;
    }
    *ret_cpus = cpus;
    return 0;
}

bool system_cpus_has(const struct system_cpus *cpus, uint32_t cpu) {
    return cpu < SYSTEM_CPUS_MAX && cpus->bits[cpu / 64] >> cpu % 64 & 1;
}
