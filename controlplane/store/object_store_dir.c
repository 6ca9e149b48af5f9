/* The object store in a directory. An object is a plain file of its name. It is written under a
 * temporary name in the same directory, synced, renamed, and the directory synced, so that a name
 * is whole or absent after a crash as well. The directory itself is never made: where a mount is
 * missing, dumps must fail and not fill the disk below. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "controlplane/store/object_store_internal.h"
#include "maroon/error.h"

#define TEMPORARY ".put-"
#define PATH_BYTES_MAX 2048
#define DEPTH_MAX 32
#define COPY_BYTES 65536

enum operation_kind { PUT, GET, HEAD, LIST, REMOVE, CLEAN };

struct operation {
    struct operation *next;
    enum operation_kind kind;
    char name[OBJECT_NAME_MAX]; /* LIST: the prefix */
    const uint8_t *bytes;
    size_t count;
    bool skip_if_same, paced;
    uint64_t max_bytes, older_s;
    void (*each)(void *context, const struct object_store_entry *entry);
    object_store_done done;
    void *context;
};

struct dir_store {
    struct object_store store;
    char root[PATH_BYTES_MAX / 2];
    struct operation *first, **last;
    struct loop_timer timer;
};

/* What one operation found out. */
struct outcome {
    struct object_store_answer answer;
    char text[OBJECT_TEXT_MAX];
};

static int error_of(int number) {
    if (number == ENOSPC || number == EDQUOT || number == EFBIG)
        return MRN_ERR_NO_SPACE;
    if (number == EACCES || number == EPERM || number == EROFS)
        return MRN_ERR_DENIED;
    if (number == ENOENT || number == ENOTDIR)
        return MRN_ERR_NOT_FOUND;
    return number == ENOMEM ? MRN_ERR_NO_MEMORY : MRN_ERR_IO;
}

/* Of errno, unless the directory is missing altogether. */
static void fail(const struct dir_store *dir, struct outcome *outcome, const char *what,
                 const char *name) {
    int number = errno;
    struct stat info;
    outcome->answer.error = error_of(number);
    outcome->answer.text = outcome->text;
    if (stat(dir->root, &info) < 0 && errno == ENOENT) {
        outcome->answer.error = MRN_ERR_NO_STORE;
        snprintf(outcome->text, sizeof outcome->text,
                 "%s: the directory does not exist; make it, or mount what belongs there",
                 dir->store.url);
        return;
    }
    snprintf(outcome->text, sizeof outcome->text, "%s: cannot %s %s: %s", dir->store.url, what,
             *name ? name : "the directory", strerror(number));
}

static void path_of(const struct dir_store *dir, const char *name, char ret_path[PATH_BYTES_MAX]) {
    snprintf(ret_path, PATH_BYTES_MAX, "%s/%s", dir->root, name);
}

static bool sync_directory(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool synced = fsync(fd) == 0;
    close(fd);
    return synced;
}

/* The directories above path, below root; each new one is synced into its parent. */
static bool make_parents(const struct dir_store *dir, char *path) {
    for (char *slash = path + strlen(dir->root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        bool made = mkdir(path, 0777) == 0;
        bool good = made || errno == EEXIST;
        if (made) {
            char *above = strrchr(path, '/');
            *above = '\0';
            good = sync_directory(path);
            *above = '/';
        }
        *slash = '/';
        if (!good)
            return false;
    }
    return true;
}

static bool write_all(int fd, const uint8_t *bytes, size_t count) {
    while (count) {
        ssize_t written = write(fd, bytes, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        bytes += written;
        count -= (size_t)written;
    }
    return true;
}

static uint64_t modified_ms(const struct stat *info) {
    return (uint64_t)info->st_mtim.tv_sec * 1000 + (uint64_t)info->st_mtim.tv_nsec / 1000000;
}

static bool same_content(const char *path, const uint8_t *bytes, size_t count,
                         uint64_t *ret_modified_ms) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool same = fstat(fd, &info) == 0 && (uint64_t)info.st_size == count;
    *ret_modified_ms = same ? modified_ms(&info) : 0;
    uint8_t buffer[COPY_BYTES];
    for (size_t at = 0; same && at < count;) {
        ssize_t got = read(fd, buffer, sizeof buffer);
        same = got > 0 && (size_t)got <= count - at && memcmp(buffer, bytes + at, (size_t)got) == 0;
        at += got > 0 ? (size_t)got : 0;
    }
    close(fd);
    return same;
}

static void do_put(struct dir_store *dir, const struct operation *operation,
                   struct outcome *outcome) {
    char path[PATH_BYTES_MAX], temporary[PATH_BYTES_MAX];
    path_of(dir, operation->name, path);
    outcome->answer.size_bytes = operation->count;
    if (operation->skip_if_same &&
        same_content(path, operation->bytes, operation->count, &outcome->answer.modified_ms)) {
        outcome->answer.error = MRN_ERR_EXISTS;
        return;
    }
    char *slash = strrchr(path, '/');
    snprintf(temporary, sizeof temporary, "%.*s/" TEMPORARY "%08x%08x", (int)(slash - path), path,
             randombytes_random(), randombytes_random());
    int fd = -1;
    for (int i = 0; fd < 0 && i < 3 && (i == 0 || errno == ENOENT); i++) /* a remove may race */
        if (make_parents(dir, path))
            fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        fail(dir, outcome, "write", operation->name);
        return;
    }
    bool good = write_all(fd, operation->bytes, operation->count) && fsync(fd) == 0;
    int number = errno;
    good = close(fd) == 0 && good;
    if (good) {
        good = rename(temporary, path) == 0;
        number = errno;
        *slash = '\0';
        if (good && !(good = sync_directory(path)))
            number = errno;
        *slash = '/';
    }
    if (!good) {
        (void)unlink(temporary);
        errno = number;
        fail(dir, outcome, "write", operation->name);
        return;
    }
    dir->store.counters.uploaded_bytes += operation->count;
}

static bool read_all(int fd, uint8_t *bytes, size_t count) {
    while (count) {
        ssize_t got = read(fd, bytes, count);
        if (got < 0 && errno == EINTR)
            continue;
        if (got == 0)
            errno = EIO; /* shorter than a moment ago */
        if (got <= 0)
            return false;
        bytes += got;
        count -= (size_t)got;
    }
    return true;
}

static void do_get(struct dir_store *dir, const struct operation *operation,
                   struct outcome *outcome) {
    char path[PATH_BYTES_MAX];
    struct stat info;
    path_of(dir, operation->name, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) < 0) {
        fail(dir, outcome, "read", operation->name);
    } else if (!S_ISREG(info.st_mode)) {
        errno = ENOENT;
        fail(dir, outcome, "read", operation->name);
    } else if ((uint64_t)info.st_size > operation->max_bytes) {
        outcome->answer.error = MRN_ERR_TOO_LARGE;
        outcome->answer.text = outcome->text;
        snprintf(outcome->text, sizeof outcome->text, "%s: %s is larger than %llu bytes",
                 dir->store.url, operation->name, (unsigned long long)operation->max_bytes);
    } else {
        size_t count = (size_t)info.st_size;
        uint8_t *bytes = malloc(count ? count : 1);
        if (bytes && read_all(fd, bytes, count)) {
            outcome->answer.bytes = bytes;
            outcome->answer.size_bytes = count;
            dir->store.counters.downloaded_bytes += count;
        } else {
            fail(dir, outcome, "read", operation->name);
            free(bytes);
        }
    }
    if (fd >= 0)
        close(fd);
}

static void do_head(struct dir_store *dir, const struct operation *operation,
                    struct outcome *outcome) {
    char path[PATH_BYTES_MAX];
    struct stat info;
    path_of(dir, operation->name, path);
    if (stat(path, &info) < 0 || !S_ISREG(info.st_mode)) {
        errno = ENOENT;
        fail(dir, outcome, "find", operation->name);
        return;
    }
    outcome->answer.size_bytes = (uint64_t)info.st_size;
    outcome->answer.modified_ms = modified_ms(&info);
}

static void do_remove(struct dir_store *dir, const struct operation *operation,
                      struct outcome *outcome) {
    char path[PATH_BYTES_MAX];
    path_of(dir, operation->name, path);
    if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR) {
        fail(dir, outcome, "remove", operation->name);
        return;
    }
    /* Directories that became empty go too; one with something in it refuses. */
    for (char *slash = strrchr(path, '/'); slash > path + strlen(dir->root);
         slash = strrchr(path, '/')) {
        *slash = '\0';
        if (rmdir(path) < 0)
            break;
    }
}

/* A file below root. Returns false to end the walk, with the outcome set. */
typedef bool (*file_handler)(struct dir_store *dir, const struct operation *operation,
                             const char *name, const char *path, const struct stat *info,
                             struct outcome *outcome);

static bool walk(struct dir_store *dir, const struct operation *operation, const char *name,
                 int depth, file_handler handler, struct outcome *outcome) {
    char path[PATH_BYTES_MAX], below[OBJECT_NAME_MAX];
    path_of(dir, name, path);
    DIR *directory = opendir(path);
    if (!directory) {
        if (errno == ENOENT && depth > 0)
            return true; /* removed meanwhile */
        fail(dir, outcome, "read", name);
        return false;
    }
    bool more = true;
    for (struct dirent *entry; more && (entry = readdir(directory));) {
        bool hidden = entry->d_name[0] == '.' && strncmp(entry->d_name, TEMPORARY, 5) != 0;
        struct stat info;
        if (hidden || (size_t)snprintf(below, sizeof below, "%s%s%s", name, *name ? "/" : "",
                                       entry->d_name) >= sizeof below)
            continue;
        path_of(dir, below, path);
        if (lstat(path, &info) < 0)
            continue;
        if (S_ISDIR(info.st_mode) && depth < DEPTH_MAX)
            more = walk(dir, operation, below, depth + 1, handler, outcome);
        else if (S_ISREG(info.st_mode))
            more = handler(dir, operation, below, path, &info, outcome);
    }
    (void)closedir(directory);
    return more;
}

static bool list_file(struct dir_store *dir, const struct operation *operation, const char *name,
                      const char *path, const struct stat *info, struct outcome *outcome) {
    (void)dir;
    (void)path;
    (void)outcome;
    if (object_store_name_valid(name, false) &&
        strncmp(name, operation->name, strlen(operation->name)) == 0) {
        struct object_store_entry entry = {name, (uint64_t)info->st_size, modified_ms(info)};
        operation->each(operation->context, &entry);
    }
    return true;
}

static bool clean_file(struct dir_store *dir, const struct operation *operation, const char *name,
                       const char *path, const struct stat *info, struct outcome *outcome) {
    const char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
    struct timespec now; /* time() may be behind a stamp that was just given */
    clock_gettime(CLOCK_REALTIME, &now);
    if (strncmp(last, TEMPORARY, strlen(TEMPORARY)) != 0 ||
        info->st_mtim.tv_sec + (time_t)operation->older_s > now.tv_sec)
        return true;
    if (unlink(path) == 0 || errno == ENOENT)
        return true;
    fail(dir, outcome, "remove", name);
    return false;
}

static void run_first(void *context) {
    struct dir_store *dir = context;
    struct operation *operation = dir->first;
    struct outcome outcome = {0};
    uint64_t wait_ms = operation->kind == PUT && !operation->paced
                           ? object_store_upload_delay_ms(&dir->store, operation->count)
                           : 0;
    operation->paced = true;
    if (wait_ms) {
        loop_timer_set(dir->store.loop, &dir->timer, wait_ms, run_first, dir);
        return;
    }
    switch (operation->kind) {
    case PUT: do_put(dir, operation, &outcome); break;
    case GET: do_get(dir, operation, &outcome); break;
    case HEAD: do_head(dir, operation, &outcome); break;
    case LIST: walk(dir, operation, "", 0, list_file, &outcome); break;
    case REMOVE: do_remove(dir, operation, &outcome); break;
    case CLEAN: walk(dir, operation, "", 0, clean_file, &outcome); break;
    }
    dir->store.counters.requests++;
    dir->store.counters.waiting--;
    dir->first = operation->next;
    if (!dir->first)
        dir->last = &dir->first;
    else
        loop_timer_set(dir->store.loop, &dir->timer, 0, run_first, dir);
    object_store_finish(&dir->store, operation->done, operation->context, &outcome.answer);
    free(outcome.answer.bytes);
    free(operation);
}

static struct operation *enqueue(struct object_store *store, enum operation_kind kind,
                                 const char *name, object_store_done done, void *context) {
    struct dir_store *dir = (struct dir_store *)store;
    struct operation *operation = calloc(1, sizeof *operation);
    if (!operation)
        return NULL;
    operation->kind = kind;
    snprintf(operation->name, sizeof operation->name, "%s", name);
    operation->done = done;
    operation->context = context;
    *dir->last = operation;
    dir->last = &operation->next;
    store->counters.waiting++;
    if (!dir->timer.set)
        loop_timer_set(store->loop, &dir->timer, 0, run_first, dir);
    return operation;
}

static int dir_put(struct object_store *store, const char *name, const void *bytes, size_t count,
                   bool skip_if_same, object_store_done done, void *context) {
    struct operation *operation = enqueue(store, PUT, name, done, context);
    if (!operation)
        return MRN_ERR_NO_MEMORY;
    operation->bytes = bytes;
    operation->count = count;
    operation->skip_if_same = skip_if_same;
    return 0;
}

static int dir_get(struct object_store *store, const char *name, uint64_t max_bytes, bool checked,
                   object_store_done done, void *context) {
    (void)checked; /* the disk is trusted */
    struct operation *operation = enqueue(store, GET, name, done, context);
    if (!operation)
        return MRN_ERR_NO_MEMORY;
    operation->max_bytes = max_bytes;
    return 0;
}

static int dir_head(struct object_store *store, const char *name, object_store_done done,
                    void *context) {
    return enqueue(store, HEAD, name, done, context) ? 0 : MRN_ERR_NO_MEMORY;
}

static int dir_list(struct object_store *store, const char *prefix,
                    void (*each)(void *context, const struct object_store_entry *entry),
                    object_store_done done, void *context) {
    struct operation *operation = enqueue(store, LIST, prefix, done, context);
    if (!operation)
        return MRN_ERR_NO_MEMORY;
    operation->each = each;
    return 0;
}

static int dir_remove(struct object_store *store, const char *name, object_store_done done,
                      void *context) {
    return enqueue(store, REMOVE, name, done, context) ? 0 : MRN_ERR_NO_MEMORY;
}

static int dir_clean(struct object_store *store, uint64_t older_s, object_store_done done,
                     void *context) {
    struct operation *operation = enqueue(store, CLEAN, "", done, context);
    if (!operation)
        return MRN_ERR_NO_MEMORY;
    operation->older_s = older_s;
    return 0;
}

static void dir_close(struct object_store *store) {
    struct dir_store *dir = (struct dir_store *)store;
    loop_timer_clear(store->loop, &dir->timer);
    for (struct operation *operation = dir->first, *next; operation; operation = next) {
        next = operation->next;
        free(operation);
    }
    free(dir);
}

int object_store_dir_open(const struct object_store_config *config, struct object_store **ret_store,
                          char *ret_text, size_t text_room) {
    static const struct object_store_kind kind = {
        dir_close, dir_put, dir_get, dir_head, dir_list, dir_remove, dir_clean,
    };
    const char *path = config->url + strlen("dir:");
    struct dir_store *dir = calloc(1, sizeof *dir);
    if (!dir)
        return MRN_ERR_NO_MEMORY;
    size_t count = strlen(path);
    while (count > 1 && path[count - 1] == '/')
        count--;
    if (path[0] != '/' || count >= sizeof dir->root) {
        snprintf(ret_text, text_room, "store URL \"%.200s\": dir: wants an absolute path",
                 config->url);
        free(dir);
        return MRN_ERR_INVALID;
    }
    snprintf(dir->root, sizeof dir->root, "%.*s", (int)count, path);
    dir->store.kind = &kind;
    dir->last = &dir->first;
    *ret_store = &dir->store;
    return 0;
}
