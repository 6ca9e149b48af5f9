/* The record of what was reserved: lines "pages NODE SIZE_KB COUNT" and "mount MADE PATH". */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugepages/pages.h"
#include <maroon/error.h>

static int parse(struct record *r, char *text) {
    char *row;
    while ((row = strsep(&text, "\n")) != NULL) {
        struct record_entry e = {.is_mount = false};
        if (!*row)
            continue;
        int made;
        e.is_mount = sscanf(row, "mount %d %255[^\n]", &made, e.mount) == 2;
        e.made = e.is_mount && made;
        if (!e.is_mount && sscanf(row, "pages %" SCNu32 " %" SCNu32 " %" SCNu64, &e.node,
                                  &e.size_kb, &e.count) != 3)
            return MRN_ERR_MALFORMED;
        if (r->count == RECORD_ENTRIES_MAX)
            return MRN_ERR_MALFORMED;
        r->entries[r->count++] = e;
    }
    return 0;
}

/* Locks the file that lies at the path now: the one that was waited for may have been removed. */
static int lock(struct record *r, bool create) {
    struct stat here, there;
    for (;;) {
        r->file = open(r->path, (create ? O_RDWR | O_CREAT : O_RDONLY) | O_CLOEXEC, 0644);
        if (r->file < 0)
            return errno == EACCES || errno == EPERM ? MRN_ERR_DENIED
                   : errno == ENOENT                 ? MRN_ERR_NOT_FOUND
                                                     : MRN_ERR_IO;
        if (flock(r->file, create ? LOCK_EX : LOCK_SH)) {
            close(r->file);
            return MRN_ERR_IO;
        }
        if (!fstat(r->file, &here) && !stat(r->path, &there) && here.st_ino == there.st_ino)
            return 0;
        close(r->file);
    }
}

int record_open(const struct system *s, bool create, struct record *ret_record) {
    char text[RECORD_ENTRIES_MAX * 300];
    struct record *r = ret_record;
    memset(r, 0, sizeof *r);
    system_path(s, r->path, "run/maroon-hugepages");
    int error = lock(r, create);
    if (error) {
        r->file = -1;
        return error == MRN_ERR_NOT_FOUND && !create ? 0 : error;
    }
    ssize_t length = read(r->file, text, sizeof text - 1);
    if (length >= 0) {
        text[length] = '\0';
        error = parse(r, text);
    } else
        error = MRN_ERR_IO;
    if (error)
        record_close(r);
    return error;
}

static struct record_entry *find(const struct record *r, uint32_t node, uint32_t size_kb) {
    for (uint32_t i = 0; i < r->count; i++)
        if (!r->entries[i].is_mount && r->entries[i].node == node &&
            r->entries[i].size_kb == size_kb)
            return (struct record_entry *)(uintptr_t)&r->entries[i];
    return NULL;
}

uint64_t record_pages(const struct record *r, uint32_t node, uint32_t size_kb) {
    const struct record_entry *e = find(r, node, size_kb);
    return e ? e->count : 0;
}

int record_add_pages(struct record *r, uint32_t node, uint32_t size_kb, uint64_t count) {
    struct record_entry *e = find(r, node, size_kb);
    if (!e) {
        if (r->count == RECORD_ENTRIES_MAX)
            return MRN_ERR_FULL;
        e = &r->entries[r->count++];
        *e = (struct record_entry){.node = node, .size_kb = size_kb};
    }
    e->count += count;
    return 0;
}

int record_add_mount(struct record *r, const char *path, bool made) {
    if (r->count == RECORD_ENTRIES_MAX)
        return MRN_ERR_FULL;
    struct record_entry *e = &r->entries[r->count++];
    *e = (struct record_entry){.is_mount = true, .made = made};
    snprintf(e->mount, sizeof e->mount, "%s", path);
    return 0;
}

int record_save(struct record *r) {
    char text[RECORD_ENTRIES_MAX * 300];
    size_t at = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        const struct record_entry *e = &r->entries[i];
        if (e->is_mount)
            at += (size_t)snprintf(text + at, sizeof text - at, "mount %d %s\n", e->made, e->mount);
        else if (e->count)
            at += (size_t)snprintf(text + at, sizeof text - at,
                                   "pages %" PRIu32 " %" PRIu32 " %" PRIu64 "\n", e->node,
                                   e->size_kb, e->count);
    }
    if (at == 0)
        return unlink(r->path) && errno != ENOENT ? MRN_ERR_IO : 0;
    return pwrite(r->file, text, at, 0) == (ssize_t)at && !ftruncate(r->file, (off_t)at)
               ? 0
               : MRN_ERR_IO;
}

void record_close(struct record *r) {
    if (r->file >= 0)
        close(r->file); /* and the lock with it */
    r->file = -1;
}
