/* ctl_dump: what the commands that read a store without a cluster share. */
#ifndef MAROON_CTL_DUMP_H
#define MAROON_CTL_DUMP_H

#include "config/config.h"
#include "controlplane/dump/dump_read.h"
#include "controlplane/dump/dump_show.h"

#define CTL_WORDS_MAX 12

struct dump_command {
    const struct config *config;
    struct dump_store store;
    struct dump_key key;
    const char *words[CTL_WORDS_MAX];
    uint32_t word_count;
    uint64_t epoch, to_epoch, from, keep, grace_s, quorum, cluster_id; /* UINT64_MAX: not said */
    bool replace, all;
    char text[DUMP_TEXT_BYTES];
};

/* Says it on stderr; 1. */
int ctl_dump_failed(const struct dump_command *command, const char *what, int error);

uint64_t ctl_now_ns(void); /* monotonic */
/* Shows progress on stderr; `show` is a struct dump_show. For dump_read. */
void ctl_tell(void *show, const struct dump_progress *done);

/* Text of dump/latest in the etcd that the configuration names. NOT_FOUND: there is none, or no
 * etcd is named; UNAVAILABLE: etcd does not answer. */
int ctl_etcd_pointer(const struct config *config, char *ret_text, size_t room);

int ctl_restore(struct dump_command *command); /* restore DATA-DIR... */
int ctl_cat(struct dump_command *command);     /* dump cat */

#endif
