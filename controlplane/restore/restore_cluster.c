#include "controlplane/restore/restore_cluster.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "controlplane/arbiter_values.h"
#include "dataplane/journal/journal.h"
#include "maroon/error.h"

#define MARK "restore.unfinished"
#define PATH_BYTES 600

static int wrong(char *text, int error, const char *path, const char *what) {
    snprintf(text, DUMP_TEXT_BYTES, "%.200s: %s", path, what);
    return error;
}

/* ---- plan ---- */

static uint64_t greater(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

void restore_cluster_plan(const struct control_config *config, const struct restore_look *look,
                          const struct restore_state *state, uint64_t newest_term,
                          struct restore_plan *ret_plan) {
    struct restore_plan *plan = ret_plan;
    const struct arbiter_setup setup = {.config = config};
    memset(plan, 0, sizeof *plan);
    arbiter_make_genesis(&setup, &plan->genesis);
    plan->term_base =
        greater(greater(look->term_base, look->latest_term), greater(newest_term, state->term));
    /* As a node would draw it: above all that etcd has seen. */
    for (uint32_t i = 0; i < config->node_count; i++)
        plan->genesis.incarnations[i] = look->etcd ? plan->term_base + look->revision + 1 : 1;
    plan->genesis.restored = (struct arbiter_restored){.seq = state->seq,
                                                       .term = state->term,
                                                       .cluster_id = state->any->cluster_id,
                                                       .epoch_hash = state->epoch_hash,
                                                       .state_hash = state->state_hash,
                                                       .origin = state->any->head.origin};
    const struct arbiter_genesis *genesis = &plan->genesis;
    plan->genesis_hash = arbiter_genesis_hash(genesis);
    plan->configuration_id = control_configuration_id(
        genesis->cluster_id, genesis->node_count, genesis->quorum, genesis->durable,
        &genesis->limits, genesis->member_keys, &genesis->digest_key);
}

/* ---- a data directory ---- */

int restore_cluster_directory_check(const char *dir, char *text) {
    char mark[PATH_BYTES];
    DIR *list = opendir(dir);
    if (!list)
        return errno == ENOENT ? 0 : wrong(text, MRN_ERR_IO, dir, strerror(errno));
    bool empty = true;
    for (struct dirent *entry; (entry = readdir(list));)
        empty &= strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(list);
    snprintf(mark, sizeof mark, "%.500s/" MARK, dir);
    if (!empty && access(mark, F_OK))
        return wrong(text, MRN_ERR_EXISTS, dir,
                     "is not empty: a restore makes a node's directory; name another one");
    return 0;
}

static int make_mark(const char *dir, char *text) {
    char path[PATH_BYTES];
    if (mkdir(dir, 0700) && errno != EEXIST)
        return wrong(text, MRN_ERR_IO, dir, strerror(errno));
    snprintf(path, sizeof path, "%.500s/" MARK, dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return wrong(text, MRN_ERR_IO, path, strerror(errno));
    close(fd);
    return 0;
}

int restore_cluster_directory_done(const char *dir, char *text) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%.500s/" MARK, dir);
    return unlink(path) ? wrong(text, MRN_ERR_IO, path, strerror(errno)) : 0;
}

static int put(void *user, const void *bytes, size_t length_bytes) {
    return fwrite(bytes, 1, length_bytes, user) == length_bytes ? 0
           : errno == ENOSPC                                    ? MRN_ERR_NO_SPACE
                                                                : MRN_ERR_IO;
}

static int sync_directory(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = fd < 0 || fsync(fd) ? MRN_ERR_IO : 0;
    if (fd >= 0)
        close(fd);
    return error;
}

static int write_snapshot(const char *dir, uint64_t seq, struct runtime *runtime, char *text) {
    char folder[PATH_BYTES], half[PATH_BYTES + 32], whole[PATH_BYTES + 32];
    struct runtime_snapshot_info info;
    snprintf(folder, sizeof folder, "%.500s/snapshots", dir);
    snprintf(half, sizeof half, "%s/snapshot.new", folder);
    snprintf(whole, sizeof whole, "%s/snapshot-%016" PRIx64, folder, seq);
    if (mkdir(folder, 0700) && errno != EEXIST)
        return wrong(text, MRN_ERR_IO, folder, strerror(errno));
    FILE *file = fopen(half, "we");
    if (!file)
        return wrong(text, MRN_ERR_IO, half, strerror(errno));
    (void)setvbuf(file, NULL, _IOFBF, 1 << 20);
    int error = runtime_snapshot_write(runtime, put, file, &info);
    if (!error && (fflush(file) || fsync(fileno(file))))
        error = errno == ENOSPC ? MRN_ERR_NO_SPACE : MRN_ERR_IO;
    if (fclose(file) && !error)
        error = MRN_ERR_IO;
    if (!error && (rename(half, whole) || sync_directory(folder)))
        error = MRN_ERR_IO;
    return error ? wrong(text, error, half, mrn_error_text(error)) : 0;
}

/* An empty journal: with it the node's number is the one that genesis lists. */
static int write_journal(const struct restore_plan *plan, const char *dir, uint64_t segment_bytes,
                         char *text) {
    char path[PATH_BYTES], words[JOURNAL_TEXT_BYTES];
    struct journal *journal;
    snprintf(path, sizeof path, "%.500s/journal", dir);
    struct journal_config config = {
        .directory = path,
        .identity = {.incarnation = arbiter_random() | 1,
                     .configuration_id = plan->configuration_id},
        .create = 1,
        .segment_bytes = segment_bytes,
    };
    memcpy(config.identity.cluster_id, &plan->genesis.cluster_id, sizeof plan->genesis.cluster_id);
    int error = journal_open(&config, NULL, NULL, &journal, words);
    if (!error)
        error = journal_close(journal);
    if (error)
        snprintf(text, DUMP_TEXT_BYTES, "%.300s", words);
    return error;
}

/* What a killed restore left is of another cluster, which was not founded. */
static int remove_half(const char *dir, char *text) {
    static const char *const folders[] = {"journal", "snapshots"};
    char path[PATH_BYTES];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%.500s/%s", dir, folders[i]);
        DIR *list = opendir(path);
        if (!list)
            continue;
        for (struct dirent *entry; (entry = readdir(list));)
            if (entry->d_name[0] != '.' && unlinkat(dirfd(list), entry->d_name, 0)) {
                closedir(list);
                return wrong(text, MRN_ERR_IO, path, strerror(errno));
            }
        closedir(list);
    }
    return 0;
}

int restore_cluster_directory(const struct restore_plan *plan, uint32_t index, const char *dir,
                              uint64_t segment_bytes, struct runtime *runtime, bool etcd,
                              char *text) {
    int error = restore_cluster_directory_check(dir, text);
    if (!error)
        error = make_mark(dir, text);
    if (!error)
        error = remove_half(dir, text);
    if (!error)
        error = write_snapshot(dir, plan->genesis.restored.seq, runtime, text);
    if (!error)
        error = write_journal(plan, dir, segment_bytes, text);
    if (error)
        return error;
    if (etcd)
        error = arbiter_store_save(dir, plan->genesis.incarnations[index], arbiter_random());
    else
        error = arbiter_embedded_found(dir, &plan->genesis, plan->term_base);
    return error ? wrong(text, error, dir, mrn_error_text(error)) : 0;
}

/* ---- etcd ---- */

struct etcd_talk {
    struct loop *loop;
    struct http_client *http;
    struct etcd *etcd;
    bool done;
    struct restore_look *look;
    struct etcd_answer answer; /* its pointers are not valid any more */
    struct arbiter_member member;
    bool genesis_is_ours;
    const char *genesis_text;
};

static void talk_close(struct etcd_talk *talk) {
    if (talk->etcd)
        etcd_destroy(talk->etcd);
    http_client_destroy(talk->http);
    loop_destroy(talk->loop);
}

static int talk_open(struct etcd_talk *talk, const struct control_config *config, char *text) {
    struct etcd_config etcd = config->etcd;
    etcd.backoff_max_ms = 500;
    *talk = (struct etcd_talk){0};
    talk->loop = loop_create();
    talk->http = talk->loop ? http_client_create(talk->loop) : NULL;
    talk->etcd = talk->http ? etcd_create(talk->loop, talk->http, &etcd) : NULL;
    if (talk->etcd)
        return 0;
    talk_close(talk);
    return wrong(text, MRN_ERR_INVALID, "etcd-endpoints", "cannot be read");
}

/* Once. */
static void talk(struct etcd_talk *talk, const struct etcd_txn *txn, etcd_done done) {
    talk->done = false;
    talk->answer = (struct etcd_answer){.error = MRN_ERR_NO_MEMORY};
    if (etcd_transaction(talk->etcd, txn, done, talk))
        return;
    while (!talk->done)
        loop_run_once(talk->loop, 50);
}

#define READS 4
#define TRIES 20

static void on_read(void *context, const struct etcd_answer *answer) {
    struct etcd_talk *talk = context;
    struct restore_look *look = talk->look;
    struct epochs_entry latest;
    talk->done = true;
    talk->answer = *answer;
    if (answer->error || answer->response_count != READS)
        return;
    const struct etcd_kv *kvs[READS];
    for (int i = 0; i < READS; i++)
        kvs[i] = answer->responses[i].kv_count ? &answer->responses[i].kvs[0] : NULL;
    *look = (struct restore_look){.etcd = true, .revision = answer->revision};
    look->there = kvs[0] != NULL;
    look->genesis_revision = kvs[0] ? kvs[0]->mod_revision : 0;
    talk->genesis_is_ours =
        kvs[0] && talk->genesis_text && strcmp(kvs[0]->value, talk->genesis_text) == 0;
    look->led = kvs[1] != NULL;
    if (kvs[2] && arbiter_decode_number(kvs[2]->value, "termBase", &look->term_base) == 0)
        look->term_base_revision = kvs[2]->mod_revision;
    if (kvs[3] && arbiter_decode_epoch(kvs[3]->value, &latest) == 0) {
        look->latest_known = true;
        look->latest_seq = latest.seq;
        look->latest_term = latest.term;
    }
}

static int read_keys(struct etcd_talk *asked, const char *cluster, const char *old,
                     struct restore_look *ret_look, char *text) {
    char keys[READS][ETCD_KEY_MAX + 1];
    snprintf(keys[0], sizeof keys[0], "/maroon/%.63s/genesis", cluster);
    snprintf(keys[1], sizeof keys[1], "/maroon/%.63s/leader", cluster);
    snprintf(keys[2], sizeof keys[2], "/maroon/%.63s/term_base", cluster);
    snprintf(keys[3], sizeof keys[3], "/maroon/%.63s/latest", old);
    struct etcd_operation reads[READS];
    for (int i = 0; i < READS; i++)
        reads[i] = (struct etcd_operation){.kind = ETCD_OP_RANGE, .key = keys[i]};
    const struct etcd_txn txn = {.success = reads, .success_count = READS};
    asked->look = ret_look;
    for (int i = 0; i < TRIES; i++) {
        if (i)
            usleep(200000);
        talk(asked, &txn, on_read);
        if (!asked->answer.error)
            return 0;
    }
    snprintf(text, DUMP_TEXT_BYTES, "etcd does not answer: %.150s",
             mrn_error_text(asked->answer.error));
    return MRN_ERR_UNAVAILABLE;
}

int restore_cluster_look(const struct control_config *config, const char *old,
                         struct restore_look *ret_look, char *text) {
    struct etcd_talk asked;
    *ret_look = (struct restore_look){0};
    if (config->arbiter != CONTROL_ARBITER_ETCD)
        return 0;
    int error = talk_open(&asked, config, text);
    if (error)
        return error;
    error = read_keys(&asked, config->cluster, old, ret_look, text);
    talk_close(&asked);
    return error;
}

static void on_member(void *context, const struct etcd_answer *answer) {
    struct etcd_talk *asked = context;
    asked->done = true;
    asked->answer = *answer;
    asked->member = (struct arbiter_member){0};
    if (!answer->error && answer->response_count == 1 && answer->responses[0].kv_count == 1)
        (void)arbiter_decode_member(answer->responses[0].kvs[0].value, &asked->member);
}

int restore_cluster_signer(const struct control_config *config, uint32_t index,
                           uint8_t ret_key[CONTROL_KEY_BYTES], char *text) {
    static const uint8_t none[CONTROL_KEY_BYTES];
    struct etcd_talk asked;
    char key[ETCD_KEY_MAX + 1];
    int error = talk_open(&asked, config, text);
    if (error)
        return error;
    snprintf(key, sizeof key, "/maroon/%.63s/nodes/%u", config->cluster, index);
    const struct etcd_operation read = {.kind = ETCD_OP_RANGE, .key = key};
    const struct etcd_txn txn = {.success = &read, .success_count = 1};
    talk(&asked, &txn, on_member);
    talk_close(&asked);
    if (asked.answer.error)
        return wrong(text, MRN_ERR_UNAVAILABLE, "etcd", mrn_error_text(asked.answer.error));
    if (memcmp(asked.member.dump_key, none, sizeof none) == 0)
        return wrong(text, MRN_ERR_NOT_FOUND, key, "no key for dumps is registered");
    memcpy(ret_key, asked.member.dump_key, CONTROL_KEY_BYTES);
    return 0;
}

static void on_written(void *context, const struct etcd_answer *answer) {
    struct etcd_talk *asked = context;
    asked->done = true;
    asked->answer = *answer;
}

/* Everything of the cluster that was there goes; what is new comes; if nobody leads it. */
static void write_keys(struct etcd_talk *asked, const struct control_config *config,
                       const struct restore_look *look, const char *const texts[3]) {
    static const char *const gone[] = {"nodes/",   "ranges/", "range-leases/",
                                       "history/", "dump/",   "latest"};
    static const char *const made[] = {"genesis", "config", "term_base"};
    char keys[9][ETCD_KEY_MAX + 1], ends[6][ETCD_KEY_MAX + 1], leader[ETCD_KEY_MAX + 1];
    struct etcd_operation operations[9];
    for (int i = 0; i < 3; i++) {
        snprintf(keys[i], sizeof keys[i], "/maroon/%.63s/%s", config->cluster, made[i]);
        operations[i] =
            (struct etcd_operation){.kind = ETCD_OP_PUT, .key = keys[i], .value = texts[i]};
    }
    for (int i = 0; i < 6; i++) {
        snprintf(keys[3 + i], sizeof keys[0], "/maroon/%.63s/%s", config->cluster, gone[i]);
        etcd_prefix_end(keys[3 + i], ends[i]);
        operations[3 + i] = (struct etcd_operation){
            .kind = ETCD_OP_DELETE, .key = keys[3 + i], .range_end = ends[i]};
    }
    snprintf(leader, sizeof leader, "/maroon/%.63s/leader", config->cluster);
    const struct etcd_compare compares[] = {
        {ETCD_MOD, keys[0], look->genesis_revision},
        {ETCD_MOD, keys[2], look->term_base_revision},
        {ETCD_CREATE, leader, 0},
    };
    const struct etcd_txn txn = {
        .compares = compares, .compare_count = 3, .success = operations, .success_count = 9};
    talk(asked, &txn, on_written);
}

static int write_and_look(struct etcd_talk *asked, const struct control_config *config,
                          const struct restore_look *look, const char *const texts[3], char *text) {
    struct restore_look now;
    asked->genesis_text = texts[0];
    for (int i = 0; i < TRIES; i++) {
        write_keys(asked, config, look, texts);
        bool refused = !asked->answer.error && !asked->answer.succeeded;
        if (!asked->answer.error && asked->answer.succeeded)
            return 0;
        int error = read_keys(asked, config->cluster, config->cluster, &now, text);
        if (error)
            return error;
        if (asked->genesis_is_ours) /* the answer was lost */
            return 0;
        if (refused)
            return wrong(text, MRN_ERR_EXISTS, config->cluster,
                         now.led ? "this cluster has a leader: stop its nodes first"
                                 : "somebody else changed this cluster's keys meanwhile");
    }
    return wrong(text, MRN_ERR_UNAVAILABLE, "etcd", "does not take the new cluster's keys");
}

int restore_cluster_found(const struct control_config *config, const struct restore_look *look,
                          const struct restore_plan *plan, char *text) {
    struct etcd_talk asked;
    if (!look->etcd)
        return 0; /* the directory holds it */
    int error = talk_open(&asked, config, text);
    if (error)
        return error;
    char *texts[] = {arbiter_encode_genesis(&plan->genesis), arbiter_encode_config(&plan->genesis),
                     arbiter_encode_number("termBase", plan->term_base)};
    error = texts[0] && texts[1] && texts[2]
                ? write_and_look(&asked, config, look, (const char *const *)texts, text)
                : wrong(text, MRN_ERR_NO_MEMORY, "restore", "no memory");
    for (int i = 0; i < 3; i++)
        free(texts[i]);
    talk_close(&asked);
    return error;
}
