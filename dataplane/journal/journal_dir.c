#include "dataplane/journal/journal_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ZERO_BYTES (1u << 20)
#define LOCK_TRIES 1000 /* of 10 ms, for a dead process's last writes */

int journal_say(char text[JOURNAL_TEXT_BYTES], int error, const char *path, const char *format,
                ...) {
    int length = snprintf(text, JOURNAL_TEXT_BYTES, "journal %.200s: ", path);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + length, (size_t)(JOURNAL_TEXT_BYTES - length), format, arguments);
    va_end(arguments);
    return error;
}

int journal_errno_error(int number) {
    if (number == EACCES || number == EPERM || number == EROFS)
        return MRN_ERR_DENIED;
    return number == ENOENT ? MRN_ERR_NOT_FOUND : MRN_ERR_IO;
}

void journal_segment_name(char name[32], uint64_t segment) {
    snprintf(name, 32, "segment-%016" PRIx64, segment);
}

static int say_errno(struct journal_dir *dir, char *text, const char *what, const char *name) {
    int number = errno;
    return journal_say(text, journal_errno_error(number), dir->path, "can't %s %s: %s", what, name,
                       strerror(number));
}

int journal_dir_open(struct journal_dir *dir, const char *path, int writable, int make,
                     const struct journal_faults *faults, char text[JOURNAL_TEXT_BYTES]) {
    memset(dir, 0, sizeof(*dir));
    dir->path = path;
    dir->faults = faults;
    dir->writable = writable;
    dir->fd = -1;
    if (make && mkdir(path, 0700) && errno != EEXIST)
        return say_errno(dir, text, "make", "the directory");
    dir->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->fd < 0)
        return say_errno(dir, text, "open", "the directory");
    if (flock(dir->fd, (writable ? LOCK_EX : LOCK_SH) | LOCK_NB)) {
        int locked = errno == EWOULDBLOCK;
        int error = locked ? journal_say(text, MRN_ERR_EXISTS, path,
                                         "in use by another process; stop that one first")
                           : say_errno(dir, text, "lock", "the directory");
        journal_dir_close(dir);
        return error;
    }
    return 0;
}

void journal_dir_close(struct journal_dir *dir) {
    if (dir->fd >= 0)
        close(dir->fd);
    dir->fd = -1;
}

/* Its own position: `fd` keeps none. */
static int dir_list(struct journal_dir *dir, DIR **ret_stream, char *text) {
    int copy = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    if (!stream) {
        int error = say_errno(dir, text, "list", "the directory");
        if (copy >= 0)
            close(copy);
        return error;
    }
    *ret_stream = stream;
    return 0;
}

/* Is there a file whose name begins so? */
static int dir_holds(struct journal_dir *dir, const char *prefix, int *ret_holds, char *text) {
    DIR *stream = NULL;
    int error = dir_list(dir, &stream, text);
    if (error)
        return error;
    *ret_holds = 0;
    for (struct dirent *entry; (entry = readdir(stream));)
        if (!strncmp(entry->d_name, prefix, strlen(prefix)))
            *ret_holds = 1;
    closedir(stream);
    return 0;
}

int journal_dir_load(struct journal_dir *dir, char text[JOURNAL_TEXT_BYTES]) {
    struct journal_store_slot *slots = calloc(JOURNAL_STORE_SLOTS, sizeof(*slots));
    if (!slots)
        return journal_say(text, MRN_ERR_NO_MEMORY, dir->path, "no memory");
    int fd = openat(dir->fd, "store", O_RDONLY | O_CLOEXEC), error = 0;
    if (fd < 0 && errno == ENOENT) {
        int holds = 0;
        error = dir_holds(dir, "segment-", &holds, text);
        if (!error && holds)
            error = journal_say(text, MRN_ERR_CORRUPT, dir->path,
                                "file store is missing, but there are segments; put it back, or "
                                "rebuild this node from its peers in an empty directory");
        else if (!error)
            error = journal_say(text, MRN_ERR_NOT_FOUND, dir->path, "there is no store");
    } else if (fd < 0) {
        error = say_errno(dir, text, "open", "store");
    } else {
        ssize_t length = pread(fd, slots, JOURNAL_STORE_SLOTS * sizeof(*slots), 0);
        int best = length < 0 ? 0 : journal_store_choose(slots);
        if (length < 0)
            error = say_errno(dir, text, "read", "store");
        else if (best == MRN_ERR_MISMATCH)
            error = journal_say(text, MRN_ERR_MISMATCH, dir->path,
                                "store has another format version than this program (%d)",
                                JOURNAL_VERSION);
        else if (best < 0)
            error = journal_say(text, MRN_ERR_CORRUPT, dir->path,
                                "file store, offset 0 and 4096: both copies fail their checksum; "
                                "rebuild this node from its peers in an empty directory");
        else
            dir->store = slots[best];
    }
    if (fd >= 0)
        close(fd);
    free(slots);
    return error;
}

static int store_write(struct journal_dir *dir, int fd, char *text) {
    journal_store_seal(&dir->store);
    for (int i = 0; i < JOURNAL_STORE_SLOTS; i++) {
        errno = journal_fault(dir->faults, JOURNAL_OP_STORE, 0, (uint64_t)i * JOURNAL_BLOCK_BYTES);
        if (errno)
            return say_errno(dir, text, "write", "store");
        ssize_t length =
            pwrite(fd, &dir->store, sizeof(dir->store), (off_t)i * JOURNAL_BLOCK_BYTES);
        if (length >= 0 && length != sizeof(dir->store))
            errno = ENOSPC;
        if (length != sizeof(dir->store) || fdatasync(fd))
            return say_errno(dir, text, "write", "store");
    }
    return 0;
}

int journal_dir_create(struct journal_dir *dir, const struct journal_identity *identity,
                       uint64_t segment_bytes, char text[JOURNAL_TEXT_BYTES]) {
    memset(&dir->store, 0, sizeof(dir->store));
    dir->store.identity = *identity;
    dir->store.segment_bytes = segment_bytes;
    dir->store.update = 1;
    int fd = openat(dir->fd, "store.new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return say_errno(dir, text, "make", "store");
    int error = store_write(dir, fd, text);
    close(fd);
    if (!error && (renameat(dir->fd, "store.new", dir->fd, "store") || fsync(dir->fd)))
        error = say_errno(dir, text, "make", "store");
    return error;
}

int journal_dir_save(struct journal_dir *dir, char text[JOURNAL_TEXT_BYTES]) {
    int fd = openat(dir->fd, "store", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return say_errno(dir, text, "open", "store");
    dir->store.update++;
    int error = store_write(dir, fd, text);
    close(fd);
    return error;
}

int journal_dir_clean(struct journal_dir *dir, char text[JOURNAL_TEXT_BYTES]) {
    DIR *stream = NULL;
    int error = dir_list(dir, &stream, text);
    if (error)
        return error;
    dir->spare_count = 0;
    for (struct dirent *entry; !error && (entry = readdir(stream));) {
        const char *name = entry->d_name;
        size_t length = strlen(name);
        int half = length > 4 && !strcmp(name + length - 4, ".new");
        unsigned long long number;
        int end = 0;
        /* A released segment whose deletion a crash prevented. */
        int old = sscanf(name, "segment-%16llx%n", &number, &end) == 1 && end == (int)length &&
                  number < dir->store.segment_begin;
        if (!strncmp(name, "spare-", 6))
            dir->spare_count++;
        if ((half || old) && unlinkat(dir->fd, name, 0))
            error = say_errno(dir, text, "remove", name);
    }
    closedir(stream);
    return error;
}

/* Opens with O_DIRECT, or without where the file system refuses it. */
static int open_data(struct journal_dir *dir, const char *name, int flags) {
    if (!dir->buffered_errno) {
        errno = journal_fault(dir->faults, JOURNAL_OP_DIRECT, 0, 0);
        int fd = errno ? -1 : openat(dir->fd, name, flags | O_DIRECT | O_CLOEXEC, 0600);
        if (fd >= 0 || errno != EINVAL)
            return fd;
        dir->buffered_errno = errno;
    }
    return openat(dir->fd, name, flags | O_CLOEXEC, 0600);
}

static int lock_segment(struct journal_dir *dir, int fd, const char *name, char *text) {
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (!flock(fd, LOCK_EX | LOCK_NB))
            return 0;
        if (errno != EWOULDBLOCK)
            break;
        nanosleep(&pause, NULL);
    }
    return say_errno(dir, text, "lock", name);
}

static int check_segment(struct journal_dir *dir, int fd, uint64_t segment, const char *name,
                         char *text) {
    struct stat status;
    if (fstat(fd, &status))
        return say_errno(dir, text, "look at", name);
    if ((uint64_t)status.st_size != dir->store.segment_bytes)
        return journal_say(text, MRN_ERR_CORRUPT, dir->path,
                           "file %s has %" PRIu64 " bytes instead of %" PRIu64
                           "; rebuild this node from its peers in an empty directory",
                           name, (uint64_t)status.st_size, dir->store.segment_bytes);
    struct journal_segment_header *header = aligned_alloc(JOURNAL_BLOCK_BYTES, sizeof(*header));
    if (!header)
        return journal_say(text, MRN_ERR_NO_MEMORY, dir->path, "no memory");
    ssize_t length = pread(fd, header, sizeof(*header), 0);
    int error = 0;
    const char *wrong = NULL;
    if (length != sizeof(*header))
        error = say_errno(dir, text, "read", name);
    else
        wrong = journal_segment_header_wrong(header, dir->store.identity.incarnation, segment,
                                             dir->store.segment_bytes);
    if (wrong)
        error = journal_say(text, MRN_ERR_CORRUPT, dir->path,
                            "file %s, offset 0: the header %s; rebuild this node from its peers in "
                            "an empty directory",
                            name, wrong);
    free(header);
    return error;
}

int journal_dir_segment(struct journal_dir *dir, uint64_t segment, int *ret_fd,
                        char text[JOURNAL_TEXT_BYTES]) {
    char name[32];
    journal_segment_name(name, segment);
    int fd = open_data(dir, name, dir->writable ? O_RDWR : O_RDONLY);
    if (fd < 0 && errno == ENOENT)
        return journal_say(text, MRN_ERR_NOT_FOUND, dir->path,
                           "file %s is missing (segments %" PRIx64 " to %" PRIx64
                           " must be there); put it back, or rebuild this node from its peers in "
                           "an empty directory",
                           name, dir->store.segment_begin, dir->store.segment_end - 1);
    if (fd < 0)
        return say_errno(dir, text, "open", name);
    int error = dir->writable ? lock_segment(dir, fd, name, text) : 0;
    if (!error)
        error = check_segment(dir, fd, segment, name, text);
    if (error)
        close(fd);
    else
        *ret_fd = fd;
    return error;
}

/* Takes any spare as `name`. Returns 1, or 0 when there is none. */
static int take_spare(struct journal_dir *dir, const char *name) {
    int copy = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    int taken = 0;
    if (!stream && copy >= 0)
        close(copy);
    if (!stream)
        return 0;
    for (struct dirent *entry; !taken && (entry = readdir(stream));) {
        struct stat status;
        if (strncmp(entry->d_name, "spare-", 6))
            continue;
        if (fstatat(dir->fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) ||
            (uint64_t)status.st_size != dir->store.segment_bytes) {
            unlinkat(dir->fd, entry->d_name, 0);
            continue;
        }
        taken = !renameat(dir->fd, entry->d_name, dir->fd, name);
    }
    closedir(stream);
    return taken;
}

/* Writes `bytes` bytes of zeros and the header on top; a spare gets the header only: its old blocks
 * are void, for their checksums are seeded by the old number. */
static int fill_segment(struct journal_dir *dir, int fd, uint64_t segment, int recycled) {
    uint8_t *zeros = aligned_alloc(JOURNAL_BLOCK_BYTES, ZERO_BYTES);
    uint64_t size_bytes = dir->store.segment_bytes;
    int number = zeros ? 0 : ENOMEM;
    if (!number && !recycled)
        number = posix_fallocate(fd, 0, (off_t)size_bytes);
    if (!number)
        memset(zeros, 0, ZERO_BYTES);
    for (uint64_t at = 0; !number && !recycled && at < size_bytes;) {
        uint64_t left = size_bytes - at;
        ssize_t length = pwrite(fd, zeros, left < ZERO_BYTES ? left : ZERO_BYTES, (off_t)at);
        if (length <= 0)
            number = length ? errno : ENOSPC;
        else
            at += (uint64_t)length;
    }
    if (!number) {
        journal_segment_header_set((struct journal_segment_header *)zeros,
                                   dir->store.identity.incarnation, segment, size_bytes);
        ssize_t length = pwrite(fd, zeros, JOURNAL_BLOCK_BYTES, 0);
        if (length != JOURNAL_BLOCK_BYTES || fdatasync(fd))
            number = length < 0 || length == JOURNAL_BLOCK_BYTES ? errno : ENOSPC;
    }
    free(zeros);
    return number;
}

int journal_dir_prepare(struct journal_dir *dir, uint64_t segment, int *ret_fd, int *ret_recycled,
                        char text[JOURNAL_TEXT_BYTES]) {
    char name[32], half[40];
    journal_segment_name(name, segment);
    snprintf(half, sizeof(half), "%s.new", name);
    int number = journal_fault(dir->faults, JOURNAL_OP_PREPARE, segment, 0);
    int recycled = !number && dir->spare_count > 0 && take_spare(dir, half);
    if (recycled)
        dir->spare_count--;
    int fd = number ? -1 : open_data(dir, half, O_RDWR | (recycled ? 0 : O_CREAT | O_TRUNC));
    if (!number && fd < 0)
        number = errno;
    if (!number && flock(fd, LOCK_EX | LOCK_NB))
        number = errno;
    if (!number)
        number = fill_segment(dir, fd, segment, recycled);
    if (!number && (renameat(dir->fd, half, dir->fd, name) || fsync(dir->fd)))
        number = errno;
    if (number) {
        if (fd >= 0)
            close(fd);
        unlinkat(dir->fd, half, 0);
        if (number == ENOSPC || number == EDQUOT)
            return journal_say(text, MRN_ERR_IO, dir->path,
                               "disk full: no room for %s (%" PRIu64
                               " bytes); free space on this volume, then restart the node",
                               name, dir->store.segment_bytes);
        errno = number;
        return say_errno(dir, text, "make", name);
    }
    *ret_fd = fd;
    *ret_recycled = recycled;
    return 0;
}

int journal_dir_retire(struct journal_dir *dir, uint64_t segment, char text[JOURNAL_TEXT_BYTES]) {
    char name[32], spare[32];
    journal_segment_name(name, segment);
    snprintf(spare, sizeof(spare), "spare-%016" PRIx64, segment);
    int keep = dir->spare_count < JOURNAL_SPARES_MAX;
    if (keep ? renameat(dir->fd, name, dir->fd, spare) : unlinkat(dir->fd, name, 0))
        return say_errno(dir, text, "release", name);
    dir->spare_count += (uint32_t)keep;
    return 0;
}
