/* restore_cluster: a new cluster that begins with a state: its genesis, a data directory for each
 * node, and etcd's keys, which come last, so that a restore that was killed has founded nothing.
 *
 *   look (etcd: is there a cluster? what did the old one publish last?) --> plan --> a directory
 * for each node --> found (one etcd transaction; for a single node: a file)
 *
 * Threads: one that may wait. Errors, with words in `text` (DUMP_TEXT_BYTES): EXISTS (a cluster of
 * this name, a directory that is not empty), UNAVAILABLE (etcd), IO, NO_MEMORY. */
#ifndef MAROON_RESTORE_CLUSTER_H
#define MAROON_RESTORE_CLUSTER_H

#include "controlplane/arbiter.h"
#include "controlplane/restore/restore_state.h"

#define RESTORE_NODES_MAX WIRE_NODES_MAX

struct restore_look {
    bool etcd;  /* it was asked */
    bool there; /* a cluster of the new one's name is */
    bool led;   /* and has a leader */
    uint64_t genesis_revision, term_base, term_base_revision, revision;
    bool latest_known; /* the old cluster's newest published epoch */
    uint64_t latest_seq, latest_term;
};

/* `config`: name, members and etcd of the new cluster. `old`: name of the dumped one. */
int restore_cluster_look(const struct control_config *config, const char *old,
                         struct restore_look *ret_look, char *text);

/* The public key that node `index` of this cluster registered for its dumps. NOT_FOUND: none. */
int restore_cluster_signer(const struct control_config *config, uint32_t index,
                           uint8_t ret_key[CONTROL_KEY_BYTES], char *text);

struct restore_plan {
    struct arbiter_genesis genesis;
    struct wire_hash genesis_hash;
    uint64_t configuration_id;
    uint64_t term_base; /* above every term of dumps, etcd and the state */
};

/* Draws the cluster's id and keys. `newest_term`: of all dumps. */
void restore_cluster_plan(const struct control_config *config, const struct restore_look *look,
                          const struct restore_state *state, uint64_t newest_term,
                          struct restore_plan *ret_plan);

/* Makes data directory `dir` for node `index`: number, journal, and the runtime's state (founded
 * already) as its snapshot. `dir` is absent, empty, or what a killed restore left. */
int restore_cluster_directory(const struct restore_plan *plan, uint32_t index, const char *dir,
                              uint64_t segment_bytes, struct runtime *runtime, bool etcd,
                              char *text);
/* Whether `dir` may be written to, before anything is. */
int restore_cluster_directory_check(const char *dir, char *text);
/* What is known to be whole is no longer marked as half. */
int restore_cluster_directory_done(const char *dir, char *text);

/* From here on the cluster is there. `look->there`: it replaces that one, which must have no
 * leader.
 */
int restore_cluster_found(const struct control_config *config, const struct restore_look *look,
                          const struct restore_plan *plan, char *text);

#endif
