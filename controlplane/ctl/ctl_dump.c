/* dump list|verify|fetch|prune|now, bootstrap: reads a store without a cluster. The store is named
 * by the keys --store-url and so on, as for a node. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "controlplane/ctl/ctl.h"
#include "controlplane/ctl/ctl_dump.h"
#include "controlplane/dump/dump_history.h"
#include "controlplane/dump/dump_show.h"
#include "controlplane/from_config.h"
#include "controlplane/restore/restore_cluster.h"
#include "controlplane/store/from_config.h"
#include "maroon/error.h"

#define GRACE_S 3600 /* what a dump being written has put is younger */
#define LIST_BATCH 32

int ctl_dump_failed(const struct dump_command *c, const char *what, int error) {
    fprintf(stderr, "maroonctl: %s: %s%s%s\n", what, mrn_error_text(error), *c->text ? ": " : "",
            c->text);
    return 1;
}

/* ---- words ---- */

static bool number(const char *text, int base, uint64_t *ret_number) {
    char *end;
    if (!text || !*text || strspn(text, "0123456789abcdef") != strlen(text))
        return false;
    *ret_number = strtoull(text, &end, base);
    return *end == '\0';
}

static uint64_t *named(struct dump_command *c, const char *word) {
    const struct {
        const char *word;
        uint64_t *to;
    } numbers[] = {{"--epoch", &c->epoch},
                   {"--to-epoch", &c->to_epoch},
                   {"--from", &c->from},
                   {"--keep", &c->keep},
                   {"--grace-s", &c->grace_s},
                   {"--quorum", &c->quorum},
                   {"--cluster-id", &c->cluster_id}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(word, numbers[i].word) == 0)
            return numbers[i].to;
    return NULL;
}

static bool read_words(struct dump_command *c) {
    const struct config *config = c->config;
    c->epoch = c->to_epoch = c->from = c->keep = c->quorum = c->cluster_id = UINT64_MAX;
    c->grace_s = GRACE_S;
    for (uint32_t i = 0; i < config->argument_count; i++) {
        const char *word = config->arguments[i];
        const char *next = i + 1 < config->argument_count ? config->arguments[i + 1] : NULL;
        uint64_t *to = named(c, word);
        if (to && !number(next, to == &c->cluster_id ? 16 : 10, to))
            return false;
        c->replace |= strcmp(word, "--replace") == 0;
        c->all |= strcmp(word, "--all") == 0;
        if (to)
            i++;
        else if (strcmp(word, "--replace") == 0 || strcmp(word, "--all") == 0)
            continue;
        else if (word[0] == '-' || c->word_count == sizeof c->words / sizeof *c->words)
            return false;
        else
            c->words[c->word_count++] = word;
    }
    return c->word_count > 0;
}

/* ---- progress ---- */

uint64_t ctl_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void ctl_tell(void *context, const struct dump_progress *done) {
    struct dump_show *show = context;
    char text[DUMP_SHOW_BYTES];
    if (dump_show(show, ctl_now_ns(), done, text))
        fprintf(stderr, "%s%s%s", show->terminal ? "" : "progress ", text,
                show->terminal && done->pages_done < done->pages ? "" : "\n");
}

/* ---- which dump ---- */

/* Which dump etcd names, if it is asked; "" in ret_path when it names none. */
static int named_by_etcd(struct dump_command *c, char ret_path[DUMP_NAME_MAX], uint64_t *ret_seq) {
    char pointer[1024];
    ret_path[0] = '\0';
    int error = ctl_etcd_pointer(c->config, pointer, sizeof pointer);
    if (!error)
        error = dump_pointer_read(pointer, strlen(pointer), ret_path, ret_seq, c->text);
    else if (error != MRN_ERR_NOT_FOUND)
        snprintf(c->text, sizeof c->text, "etcd does not say which dump it names");
    return error == MRN_ERR_NOT_FOUND ? 0 : error;
}

/* The newest that is not above c->epoch. What etcd names comes first: the store says so too, or it
 * was pruned. */
static int choose(struct dump_command *c, char ret_path[DUMP_NAME_MAX], uint64_t *ret_seq) {
    struct dump_listed *list = NULL;
    uint32_t count = 0;
    if (c->epoch == UINT64_MAX) {
        struct dump_manifest manifest;
        if (!named_by_etcd(c, ret_path, ret_seq) && ret_path[0] &&
            !dump_manifest_get(&c->store, &c->key, ret_path, &manifest, c->text)) {
            dump_manifest_free(&manifest);
            return 0;
        }
        int error = dump_latest(&c->store, ret_path, ret_seq, c->text);
        if (error != MRN_ERR_NOT_FOUND)
            return error;
    }
    /* Also without a pointer: a manifest is written when all it names is stored. */
    int error = dump_list(&c->store, &list, &count, c->text);
    if (error)
        return error;
    error = MRN_ERR_NOT_FOUND;
    snprintf(c->text, sizeof c->text, "the store holds no dump%s",
             c->epoch == UINT64_MAX ? "" : " of this epoch or an earlier one");
    for (uint32_t i = 0; i < count; i++)
        if (list[i].seq <= c->epoch) {
            snprintf(ret_path, DUMP_NAME_MAX, "%s", list[i].path);
            *ret_seq = list[i].seq;
            error = 0;
        }
    free(list);
    return error;
}

/* ---- commands ---- */

static void hex(const struct wire_hash *hash, char ret_text[65]) {
    dump_name_text(hash, ret_text);
}

/* Up to LIST_BATCH manifests at once: a list of many dumps waits for the store now and then, not
 * for each of them. */
static int get_batch(struct dump_command *c, const struct dump_listed *listed, uint32_t count,
                     struct dump_got *got) {
    const char *names[LIST_BATCH];
    uint64_t most[LIST_BATCH];
    for (uint32_t i = 0; i < count; i++) {
        got[i] = (struct dump_got){0};
        names[i] = listed[i].path;
        most[i] = DUMP_MANIFEST_MAX_BYTES;
    }
    int error = dump_store_get_many(&c->store, names, most, count, got);
    snprintf(c->text, sizeof c->text, "%s", c->store.text);
    /* One that is missing or damaged concerns its own line only. */
    return error == MRN_ERR_NOT_FOUND || error == MRN_ERR_CORRUPT ? 0 : error;
}

static void list_row(const struct dump_listed *listed, const struct dump_manifest *m,
                     struct ctl_table *table, json_t *array) {
    char cells[6][40], hash[65] = "-", when[32];
    time_t at_s = (time_t)(listed->modified_ms / 1000);
    hex(&m->tail.state_hash, hash);
    strftime(when, sizeof when, "%FT%TZ", gmtime(&at_s));
    snprintf(cells[0], 40, "%" PRIu64, m->head.seq);
    snprintf(cells[1], 40, "%" PRIu64, m->head.term);
    snprintf(cells[2], 40, "%u", m->node);
    snprintf(cells[3], 40, "%" PRIu64, m->tail.page_count);
    snprintf(cells[4], 40, "%u", m->chunk_count);
    snprintf(cells[5], 40, m->stretch_count ? "%" PRIu64 : "gap",
             m->stretch_count ? m->head.seq - m->stretches[0].first_seq + 1 : 0);
    json_array_append_new(array, json_pack("{s:s, s:s, s:i, s:s, s:s, s:s, s:s, s:s}", "seq",
                                           cells[0], "term", cells[1], "node", (int)m->node,
                                           "pages", cells[3], "epochsSince", cells[5], "writtenAt",
                                           when, "manifest", listed->path, "stateHash", hash));
    hash[16] = '\0';
    ctl_table_row(table, 8, cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], when, hash);
}

/* Rows of one batch. Returns how many could not be read: each of them is said. */
static uint32_t list_batch(struct dump_command *c, const struct dump_listed *listed, uint32_t count,
                           struct dump_got *got, struct ctl_table *table, json_t *array) {
    uint32_t bad = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct dump_manifest m;
        int error = got[i].error;
        if (error)
            snprintf(c->text, sizeof c->text, "%s", mrn_error_text(error));
        else
            error = dump_manifest_take(&c->key, listed[i].path, &got[i].bytes, &m, c->text);
        dump_bytes_free(&got[i].bytes);
        if (error) {
            fprintf(stderr, "maroonctl: %s: %s\n", listed[i].path, c->text);
            bad++;
            continue;
        }
        list_row(&listed[i], &m, table, array);
        dump_manifest_free(&m);
    }
    return bad;
}

static int list(struct dump_command *c) {
    struct dump_listed *all = NULL;
    struct dump_got got[LIST_BATCH];
    struct ctl_table table = {0};
    uint32_t count = 0, bad = 0;
    json_t *array = json_array();
    int error = dump_list(&c->store, &all, &count, c->text);
    ctl_table_row(&table, 8, "EPOCH", "TERM", "NODE", "PAGES", "CHUNKS", "EPOCHS SINCE", "WRITTEN",
                  "STATE HASH");
    for (uint32_t at = 0; !error && at < count; at += LIST_BATCH) {
        uint32_t some = count - at < LIST_BATCH ? count - at : LIST_BATCH;
        error = get_batch(c, all + at, some, got);
        for (uint32_t i = 0; error && i < some; i++)
            dump_bytes_free(&got[i].bytes);
        if (!error)
            bad += list_batch(c, all + at, some, got, &table, array);
    }
    free(all);
    if (c->config->json == CONFIG_ON) {
        json_dumpf(array, stdout, JSON_INDENT(2));
        printf("\n");
    } else if (!error) {
        ctl_table_print(&table, stdout);
    }
    json_decref(array);
    return error ? ctl_dump_failed(c, "dump list", error) : bad > 0;
}

/* To `file`, or "" to check only. */
static int read_dump(struct dump_command *c, const char *path, const char *file,
                     struct dump_manifest *ret_manifest) {
    struct dump_show show = {.terminal = isatty(STDERR_FILENO), .since_ns = ctl_now_ns()};
    int error = dump_read(&c->store, &c->key, path, file, ctl_tell, &show, ret_manifest, c->text);
    if (!error)
        printf("epoch %" PRIu64 ": %" PRIu64 " pages %s in %.2f s\n", ret_manifest->head.seq,
               ret_manifest->tail.page_count, *file ? "fetched and checked" : "checked",
               (double)(ctl_now_ns() - show.since_ns) / 1e9);
    return error;
}

/* With etcd at hand: is it the key of the node that the manifest names? */
static int compare_signer(struct dump_command *c, const struct dump_manifest *manifest) {
    static struct control_config config;
    uint8_t key[CONTROL_KEY_BYTES];
    control_cluster_from_config(c->config, &config);
    if (config.arbiter != CONTROL_ARBITER_ETCD)
        return 0;
    int error = restore_cluster_signer(&config, manifest->node, key, c->text);
    if (!error && memcmp(key, manifest->public_key, sizeof key) != 0) {
        snprintf(c->text, sizeof c->text,
                 "node %u of cluster %s registered another key for its dumps: not written by that "
                 "node, or before it lost its disk",
                 manifest->node, config.cluster);
        error = MRN_ERR_DENIED;
    }
    if (!error)
        printf("the key is that of node %u of cluster %s in etcd\n", manifest->node,
               config.cluster);
    return error;
}

static int verify_one(struct dump_command *c, const char *path) {
    struct dump_manifest manifest = {0};
    int error = read_dump(c, path, "", &manifest);
    if (!error)
        error = dump_history_verify(&c->store, &c->key, &manifest, c->text);
    if (error) {
        dump_manifest_free(&manifest);
        return ctl_dump_failed(c, "dump verify", error);
    }
    if (manifest.stretch_count)
        printf("epochs %" PRIu64 " to %" PRIu64 ": every epoch and body checked, one chain\n",
               manifest.stretches[0].first_seq, manifest.head.seq);
    else
        printf("no epochs: this dump has its state only\n");
    char hash[65], signer[65];
    hex(&manifest.tail.state_hash, hash);
    hex((const struct wire_hash *)manifest.public_key, signer);
    printf("sound: cluster %s, id %" PRIx64 ", state hash %s, signed by %s\n", manifest.cluster,
           manifest.cluster_id, hash, signer);
    error = compare_signer(c, &manifest);
    dump_manifest_free(&manifest);
    return error ? ctl_dump_failed(c, "dump verify", error) : 0;
}

/* Each dump by itself: one that is damaged is said, and the next one is looked at. */
static int verify_all(struct dump_command *c) {
    struct dump_listed *all = NULL;
    uint32_t count = 0, bad = 0;
    int error = dump_list(&c->store, &all, &count, c->text);
    if (error)
        return ctl_dump_failed(c, "dump verify", error);
    for (uint32_t i = 0; i < count; i++)
        if (verify_one(c, all[i].path)) {
            printf("damaged: %s\n", all[i].path);
            bad++;
        }
    free(all);
    printf("%u of %u dumps are sound\n", count - bad, count);
    return bad > 0;
}

static int verify(struct dump_command *c) {
    char path[DUMP_NAME_MAX];
    uint64_t seq;
    if (c->all)
        return verify_all(c);
    int error = choose(c, path, &seq);
    return error ? ctl_dump_failed(c, "dump verify", error) : verify_one(c, path);
}

static int fetch(struct dump_command *c, const char *file) {
    char path[DUMP_NAME_MAX];
    uint64_t seq;
    struct dump_manifest manifest = {0};
    int error = choose(c, path, &seq);
    if (!error)
        error = read_dump(c, path, file, &manifest);
    dump_manifest_free(&manifest);
    return error ? ctl_dump_failed(c, "dump fetch", error) : 0;
}

/* What a node finds there at its start it builds on; what came after, and whether it may vote, it
 * learns from its peers (protocol.md §7). */
static int bootstrap(struct dump_command *c, const char *data_dir) {
    char path[DUMP_NAME_MAX], dir[512], half[600], whole[600], store[600];
    uint64_t seq;
    struct dump_manifest manifest = {0};
    snprintf(store, sizeof store, "%.480s/journal/store", data_dir);
    if (access(store, F_OK) == 0) {
        snprintf(c->text, sizeof c->text,
                 "%.200s has a journal: its node starts from that; use an empty directory",
                 data_dir);
        return ctl_dump_failed(c, "bootstrap", MRN_ERR_EXISTS);
    }
    int error = choose(c, path, &seq);
    if (error)
        return ctl_dump_failed(c, "bootstrap", error);
    snprintf(dir, sizeof dir, "%.480s/snapshots", data_dir);
    (void)mkdir(data_dir, 0700);
    (void)mkdir(dir, 0700);
    /* The name tells which dump: a try after kill -9 takes up the pages that are there. */
    snprintf(half, sizeof half, "%s/fetch-%016" PRIx64, dir, seq);
    snprintf(whole, sizeof whole, "%s/snapshot-%016" PRIx64, dir, seq);
    if (access(whole, F_OK) == 0) {
        printf("epoch %" PRIu64 " is there already\n", seq);
        return 0;
    }
    error = read_dump(c, path, half, &manifest);
    dump_manifest_free(&manifest);
    if (!error && rename(half, whole))
        error = MRN_ERR_IO;
    if (error)
        return ctl_dump_failed(c, "bootstrap", error);
    printf("%s: start the node; it fetches the rest from its peers\n", whole);
    return 0;
}

static int prune(struct dump_command *c) {
    struct dump_pruned pruned = {0};
    if (c->keep == UINT64_MAX || c->keep == 0 || c->keep > UINT32_MAX) {
        fprintf(stderr, "maroonctl: dump prune --keep N, at least 1\n");
        return 2;
    }
    char named[DUMP_NAME_MAX];
    uint64_t seq;
    int error = named_by_etcd(c, named, &seq);
    if (!error)
        error =
            dump_prune(&c->store, &c->key, (uint32_t)c->keep, c->grace_s, named, &pruned, c->text);
    if (error)
        return ctl_dump_failed(c, "dump prune", error);
    printf("removed %u dumps, %u objects, %" PRIu64
           " bytes; %u unused objects are young and stay\n",
           pruned.manifests, pruned.objects, pruned.bytes, pruned.young);
    return 0;
}

static int run(struct dump_command *c) {
    const char *first = c->words[0], *second = c->word_count > 1 ? c->words[1] : "";
    if (strcmp(first, "bootstrap") == 0 && c->word_count == 2)
        return bootstrap(c, second);
    if (strcmp(first, "restore") == 0 && c->word_count >= 2)
        return ctl_restore(c);
    if (strcmp(first, "dump") == 0 && c->word_count == 2 && strcmp(second, "cat") == 0)
        return ctl_cat(c);
    if (strcmp(first, "dump") == 0 && c->word_count == 2 && strcmp(second, "list") == 0)
        return list(c);
    if (strcmp(first, "dump") == 0 && c->word_count == 2 && strcmp(second, "verify") == 0)
        return verify(c);
    if (strcmp(first, "dump") == 0 && c->word_count == 2 && strcmp(second, "prune") == 0)
        return prune(c);
    if (strcmp(first, "dump") == 0 && c->word_count == 3 && strcmp(second, "fetch") == 0)
        return fetch(c, c->words[2]);
    fprintf(stderr,
            "maroonctl: dump list | verify | cat | prune --keep N | fetch FILE | now, bootstrap "
            "DATA-DIR, or restore DATA-DIR...; see --help\n");
    return 2;
}

/* Asks the nodes one after the other until one of them says yes. */
static int ask(const struct config *config) {
    char list[sizeof config->admin];
    int status = 1;
    snprintf(list, sizeof list, "%s", config->admin);
    for (char *node = strtok(list, ","); node && status; node = strtok(NULL, ",")) {
        char *body = NULL;
        long answer = ctl_http(node, "POST", "/v1/dump", &body);
        status = answer == 202 ? 0 : 1;
        fprintf(status ? stderr : stdout, "%s: %s\n", node, body ? body : "does not answer");
        free(body);
    }
    return status;
}

int ctl_dump(int argc, char **argv) {
    static struct config config;
    static struct object_store_config store;
    struct dump_command c = {.config = &config};
    char text[CONFIG_ERROR_BYTES];
    if (config_load(&config, CONFIG_CTL, argc, argv, environ, text)) {
        fprintf(stderr, "maroonctl: %s\n", text);
        return 2;
    }
    if (!read_words(&c)) {
        fprintf(stderr, "maroonctl: wrong words; see --help\n");
        return 2;
    }
    if (c.word_count == 2 && strcmp(c.words[0], "dump") == 0 && strcmp(c.words[1], "now") == 0)
        return ask(&config);
    if (!store_from_config(&config, &store)) {
        fprintf(stderr,
                "maroonctl: no store is named: --store-url s3://BUCKET/PREFIX or dir:/PATH\n");
        return 2;
    }
    if (config.dump_key_file[0] && dump_key_load(config.dump_key_file, &c.key)) {
        fprintf(stderr, "maroonctl: %s does not hold 64 hex digits\n", config.dump_key_file);
        return 2;
    }
    int error = dump_store_open(&c.store, &store, NULL);
    if (error) {
        fprintf(stderr, "maroonctl: %s\n", c.store.text);
        return 2;
    }
    int status = run(&c);
    dump_store_close(&c.store);
    return status;
}
