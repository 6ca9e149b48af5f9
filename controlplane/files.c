#include "controlplane/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "maroon/error.h"

#define PATH_BYTES 1024

static int path_of(const char *dir, const char *name, const char *suffix, char *ret_path) {
    int length = snprintf(ret_path, PATH_BYTES, "%s/%s%s", dir, name, suffix);
    return length > 0 && length < PATH_BYTES ? 0 : MRN_ERR_TOO_LARGE;
}

static int read_all(int fd, size_t max_bytes, char **ret_text) {
    struct stat facts;
    if (fstat(fd, &facts) < 0 || !S_ISREG(facts.st_mode))
        return MRN_ERR_IO;
    if ((size_t)facts.st_size > max_bytes)
        return MRN_ERR_TOO_LARGE;
    size_t size = (size_t)facts.st_size, have = 0;
    char *text = malloc(size + 1);
    if (!text)
        return MRN_ERR_NO_MEMORY;
    while (have < size) {
        ssize_t got = read(fd, text + have, size - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            free(text);
            return MRN_ERR_IO;
        }
        have += (size_t)got;
    }
    text[have] = '\0';
    *ret_text = text;
    return 0;
}

int files_read(const char *dir, const char *name, size_t max_bytes, char **ret_text) {
    char path[PATH_BYTES];
    int error = path_of(dir, name, "", path);
    if (error)
        return error;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? MRN_ERR_NOT_FOUND : MRN_ERR_IO;
    error = read_all(fd, max_bytes, ret_text);
    close(fd);
    return error;
}

static int write_all(int fd, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t put = write(fd, bytes, count);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return MRN_ERR_IO;
        bytes += put;
        count -= (size_t)put;
    }
    return 0;
}

static int sync_directory(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return MRN_ERR_IO;
    int failed = fsync(fd);
    close(fd);
    return failed ? MRN_ERR_IO : 0;
}

int files_replace(const char *dir, const char *name, const void *bytes, size_t count) {
    char path[PATH_BYTES], next[PATH_BYTES];
    int error = path_of(dir, name, "", path);
    if (!error)
        error = path_of(dir, name, ".next", next);
    if (error)
        return error;
    int fd = open(next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return MRN_ERR_IO;
    error = write_all(fd, bytes, count);
    if (!error && fsync(fd) < 0)
        error = MRN_ERR_IO;
    if (close(fd) < 0)
        error = MRN_ERR_IO;
    if (!error && rename(next, path) < 0)
        error = MRN_ERR_IO;
    if (error) {
        unlink(next);
        return error;
    }
    return sync_directory(dir);
}

int files_lock(const char *dir, const char *name, int *ret_fd) {
    char path[PATH_BYTES];
    int error = path_of(dir, name, "", path);
    if (error)
        return error;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return MRN_ERR_IO;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        error = errno == EWOULDBLOCK ? MRN_ERR_EXISTS : MRN_ERR_IO;
        close(fd);
        return error;
    }
    *ret_fd = fd;
    return 0;
}
