/* ctl_dump: what the commands that read a store without a cluster share. */
#ifndef MAROON_CTL_DUMP_H
#define MAROON_CTL_DUMP_H

#include <time.h>

#include "config/config.h"
#include "controlplane/dump/dump_read.h"

#define CTL_WORDS_MAX 12

struct dump_command {
    const struct config *config;
    struct dump_store store;
    struct dump_key key;
    const char *words[CTL_WORDS_MAX], *key_file;
    uint32_t word_count;
    uint64_t epoch, to_epoch, from, keep, grace_s, quorum, cluster_id; /* UINT64_MAX: not said */
    bool replace;
    char text[DUMP_TEXT_BYTES];
};

/* Says it on stderr; 1. */
int ctl_dump_failed(const struct dump_command *command, const char *what, int error);

/* A bar on a terminal, a line a second elsewhere. */
struct ctl_progress {
    struct timespec since;
    uint64_t told_ns;
    bool terminal;
};
void ctl_progress_begin(struct ctl_progress *progress);
uint64_t ctl_progress_ns(const struct ctl_progress *progress);
void ctl_progress_tell(void *progress, const struct dump_progress *done);

int ctl_restore(struct dump_command *command); /* restore DATA-DIR... */
int ctl_cat(struct dump_command *command);     /* dump cat */

#endif
