#include "controlplane/dump/dump_fetch.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "maroon/error.h"

struct told {
    const struct dump_fetch *fetch;
    uint64_t seq;
};

static void tell(void *context, const struct dump_progress *progress) {
    const struct told *told = context;
    if (told->fetch->tell)
        told->fetch->tell(told->fetch->context, told->seq, progress);
}

/* What an earlier try left of another dump, cluster or not, becomes the beginning of this one: most
 * pages are the same, and each is looked at. What more there is is of no use. */
static void take_over(const char *directory, const char *name) {
    DIR *dir = opendir(directory);
    if (!dir)
        return;
    bool there = faccessat(dirfd(dir), name, F_OK, 0) == 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strncmp(entry->d_name, "fetch-", 6) != 0 || strcmp(entry->d_name, name) == 0)
            continue;
        if (!there && renameat(dirfd(dir), entry->d_name, dirfd(dir), name) == 0)
            there = true;
        else
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
}

/* The manifest first: that a pointer names one that a prune has removed, or that is another
 * cluster's, is known before anything is written. */
static int choose(const struct dump_fetch *fetch, const char *path, uint64_t seq, char *text) {
    struct dump_manifest manifest;
    if (seq <= fetch->newer_than) {
        snprintf(text, DUMP_TEXT_BYTES, "the newest dump is not newer than what is here");
        return MRN_ERR_NOT_FOUND;
    }
    int error = dump_manifest_get(fetch->store, fetch->key, path, &manifest, text);
    if (error)
        return error;
    if (fetch->configuration_id && manifest.head.configuration_id != fetch->configuration_id) {
        snprintf(text, DUMP_TEXT_BYTES, "the store holds dumps of another cluster (%.63s)",
                 manifest.cluster);
        error = MRN_ERR_MISMATCH;
    }
    dump_manifest_free(&manifest);
    return error;
}

int dump_fetch(const struct dump_fetch *fetch, char ret_file[512], uint64_t *ret_seq, char *text) {
    char path[DUMP_NAME_MAX], hex[65], name[80], file[512];
    struct wire_hash hash;
    struct told told = {.fetch = fetch};
    int error = MRN_ERR_NOT_FOUND;
    text[0] = '\0';
    if (*fetch->pointer &&
        !dump_pointer_read(fetch->pointer, strlen(fetch->pointer), path, &told.seq, text))
        error = choose(fetch, path, told.seq, text);
    if (error == MRN_ERR_NOT_FOUND) {
        error = dump_latest(fetch->store, path, &told.seq, text);
        if (!error)
            error = choose(fetch, path, told.seq, text);
    }
    if (error)
        return error;
    (void)dump_manifest_path_read(path, &told.seq, &hash);
    dump_name_text(&hash, hex);
    snprintf(name, sizeof name, "fetch-%.16s", hex);
    if (snprintf(file, sizeof file, "%s/%s", fetch->directory, name) >= (int)sizeof file)
        return MRN_ERR_TOO_LARGE;
    take_over(fetch->directory, name);
    *ret_seq = told.seq;
    error = dump_read(fetch->store, fetch->key, path, file, tell, &told, NULL, text);
    if (!error)
        memcpy(ret_file, file, sizeof file);
    return error;
}
