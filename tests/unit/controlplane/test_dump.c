/* Dumps: snapshot files into a store and back, incremental, damaged, killed, pruned. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "controlplane/dump/dump_fetch.h"
#include "controlplane/dump/dump_keep.h"
#include "controlplane/dump/dump_read.h"
#include "controlplane/dump/dump_show.h"
#include "controlplane/dump/dump_write.h"
#include "controlplane/dump/dumper.h"
#include "dump_fixture.h"
#include "fixture.h"
#include "maroon/error.h"
#include "store_fixture.h"

#define PAGES 3000 /* of 4 KiB: 12 MB */

static struct dump_fixture here;
static char again[96];  /* a file: what came back */
static uint8_t *region; /* PAGES pages, the state that is dumped */
static struct dump_signer signer;
static struct dump_key no_key;
static struct store_server server;
static bool have_server;

static void fill_page(uint64_t page, uint32_t seed) {
    uint8_t *bytes = store_bytes(DUMP_PAGE_BYTES, seed * 31 + (uint32_t)page);
    memcpy(region + page * DUMP_PAGE_BYTES, bytes, DUMP_PAGE_BYTES);
    free(bytes);
}

static void write_snapshot(uint64_t seq, uint64_t configuration_id) {
    dump_fixture_snapshot(&here,
                          (struct snapshot_head){.configuration_id = configuration_id, .seq = seq},
                          region, PAGES);
}

static void open_store(struct dump_store *store, const char *url) {
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", server.port);
    struct object_store_config config = {
        .url = url, .endpoint = endpoint, .retry_first_ms = 10, .retry_max_ms = 100};
    assert_int_equal(dump_store_open(store, &config, NULL), 0);
}

static int write_dump(struct dump_writer *writer, struct dump_report *report) {
    char text[DUMP_TEXT_BYTES];
    int error = dump_fixture_write(&here, writer, report, text);
    if (error && error != MRN_ERR_EXISTS)
        print_message("%s\n", text);
    return error;
}

static void begin(struct dump_writer *writer, struct dump_store *store) {
    *writer = (struct dump_writer){.store = store, .key = &no_key, .signer = &signer};
    strcpy(writer->cluster, "test");
}

/* What the store gives back is the file that went in, byte for byte. */
static void expect_back(struct dump_store *store, const struct dump_key *key, const char *path) {
    char text[DUMP_TEXT_BYTES], command[256];
    unlink(again);
    int error = dump_read(store, key, path, again, NULL, NULL, NULL, text);
    if (error)
        fail_msg("read: %d %s", error, text);
    snprintf(command, sizeof command, "cmp %s %s", here.snapshot, again);
    assert_int_equal(system(command), 0);
}

static int set_up(void **state) {
    (void)state;
    dump_fixture_make(&here);
    snprintf(again, sizeof again, "%s/again", here.dir);
    memset(region, 0, (size_t)PAGES * DUMP_PAGE_BYTES);
    for (uint64_t page = 0; page < PAGES; page += page % 7 == 0 ? 2 : 1)
        fill_page(page, 1);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    dump_fixture_remove(&here);
    return 0;
}

static void test_there_and_back_incrementally(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_writer writer;
    struct dump_report first, second = {0}, third;
    open_store(&store, here.url);
    begin(&writer, &store);
    write_snapshot(10, 1);
    assert_int_equal(write_dump(&writer, &first), 0);
    assert_int_equal(first.changed_pages, first.pages);
    expect_back(&store, &no_key, first.path);
    assert_int_equal(write_dump(&writer, &second), MRN_ERR_EXISTS); /* the same epoch */
    for (uint64_t page = 50; page < PAGES; page += 100)
        fill_page(page, 2);                                     /* 1 % of the pages, far apart */
    memset(region + 150 * DUMP_PAGE_BYTES, 0, DUMP_PAGE_BYTES); /* and one becomes zeros */
    write_snapshot(20, 1);
    assert_int_equal(write_dump(&writer, &second), 0);
    assert_int_equal(second.changed_pages, PAGES / 100);
    assert_true(second.sent_bytes * 100 < first.sent_bytes * 2); /* about 1 % of the bytes */
    expect_back(&store, &no_key, second.path);
    /* A new process knows nothing and learns it from the store. */
    dump_state_free(&writer.state);
    begin(&writer, &store);
    fill_page(150, 3);
    write_snapshot(30, 1);
    assert_int_equal(write_dump(&writer, &third), 0);
    assert_int_equal(third.changed_pages, 1);
    expect_back(&store, &no_key, third.path);
    dump_state_free(&writer.state);
    dump_store_close(&store);
}

static void test_garbage_is_bounded(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_writer writer;
    struct dump_report report;
    open_store(&store, here.url);
    begin(&writer, &store);
    uint64_t stored = 0;
    for (uint32_t round = 1; round <= 8; round++) {
        for (uint64_t page = round % 2; page < PAGES; page += 2)
            fill_page(page, 100 + round);
        write_snapshot(round, 1);
        assert_int_equal(write_dump(&writer, &report), 0);
        stored = 0;
        for (uint32_t i = 0; i < writer.state.manifest.chunk_count; i++)
            stored += writer.state.manifest.chunks[i].pages;
    }
    assert_true(stored <= 3 * PAGES + 2 * DUMP_CHUNK_PAGES);
    expect_back(&store, &no_key, report.path);
    dump_state_free(&writer.state);
    dump_store_close(&store);
}

static void test_sealed(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_writer writer;
    struct dump_report report;
    char text[DUMP_TEXT_BYTES];
    struct dump_key key = {.set = true, .bytes = {1, 2, 3}}, other = {.set = true, .bytes = {4}};
    open_store(&store, here.url);
    begin(&writer, &store);
    writer.key = &key;
    write_snapshot(10, 1);
    assert_int_equal(write_dump(&writer, &report), 0);
    expect_back(&store, &key, report.path);
    assert_int_equal(dump_read(&store, &other, report.path, "", NULL, NULL, NULL, text),
                     MRN_ERR_DENIED);
    assert_int_equal(dump_read(&store, &no_key, report.path, "", NULL, NULL, NULL, text),
                     MRN_ERR_DENIED);
    assert_non_null(strstr(text, "key file"));
    dump_state_free(&writer.state);
    dump_store_close(&store);
}

static int write_once(uint64_t configuration_id, uint64_t seq, struct dump_report *report) {
    struct dump_store store;
    struct dump_writer writer;
    open_store(&store, here.url);
    begin(&writer, &store);
    write_snapshot(seq, configuration_id);
    int error = write_dump(&writer, report);
    dump_state_free(&writer.state);
    dump_store_close(&store);
    return error;
}

/* Every object in turn: one byte of it changed, or the object gone, must be found. */
static void test_every_damage_is_found(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_report report;
    char text[DUMP_TEXT_BYTES], command[200], line[256];
    assert_int_equal(write_once(1, 10, &report), 0);
    open_store(&store, here.url);
    assert_int_equal(dump_read(&store, &no_key, report.path, "", NULL, NULL, NULL, text), 0);
    snprintf(command, sizeof command, "find %s/objects -type f ! -name latest", here.dir);
    FILE *list = popen(command, "r");
    int objects = 0;
    while (fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = '\0';
        objects++;
        for (int at = 0; at < 3; at++) {
            FILE *object = fopen(line, "r+");
            fseek(object, at == 0 ? 3 : at == 1 ? 40 : -1, at == 2 ? SEEK_END : SEEK_SET);
            long place = ftell(object);
            int byte = fgetc(object);
            fseek(object, place, SEEK_SET);
            fputc(byte ^ 4, object);
            fflush(object);
            int error = dump_read(&store, &no_key, report.path, "", NULL, NULL, NULL, text);
            assert_true(error == MRN_ERR_CORRUPT || error == MRN_ERR_DENIED ||
                        error == MRN_ERR_UNSUPPORTED);
            assert_true(text[0]);
            fseek(object, place, SEEK_SET);
            fputc(byte, object);
            fclose(object);
        }
        char moved[300];
        snprintf(moved, sizeof moved, "%s.away", line);
        rename(line, moved);
        assert_int_equal(dump_read(&store, &no_key, report.path, "", NULL, NULL, NULL, text),
                         MRN_ERR_NOT_FOUND);
        rename(moved, line);
    }
    pclose(list);
    assert_true(objects >= 5);
    assert_int_equal(dump_read(&store, &no_key, report.path, "", NULL, NULL, NULL, text), 0);
    dump_store_close(&store);
}

static void test_a_damaged_snapshot_or_another_cluster_is_refused(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_writer writer;
    struct dump_report report;
    assert_int_equal(write_once(1, 10, &report), 0);
    assert_int_equal(write_once(2, 11, &report), MRN_ERR_MISMATCH);
    write_snapshot(12, 1);
    open_store(&store, here.url);
    begin(&writer, &store);
    FILE *snapshot = fopen(here.snapshot, "r+");
    fseek(snapshot, 100000, SEEK_SET);
    fputc('x', snapshot);
    fputc('y', snapshot);
    fclose(snapshot);
    assert_int_equal(write_dump(&writer, &report), MRN_ERR_CORRUPT);
    assert_int_equal(truncate(here.snapshot, 50000), 0);
    assert_int_equal(write_dump(&writer, &report), MRN_ERR_CORRUPT);
    char path[DUMP_NAME_MAX], text[DUMP_TEXT_BYTES];
    uint64_t seq;
    assert_int_equal(dump_latest(&store, path, &seq, text), 0);
    assert_int_equal(seq, 10); /* the pointer has not moved */
    dump_state_free(&writer.state);
    dump_store_close(&store);
}

/* Adds to byte 6 of a file, the format version of an object. */
static void add_version(const char *glob, int more) {
    char command[300];
    snprintf(
        command, sizeof command,
        "f=$(ls %s | head -1) && printf '\\%o' | dd of=$f bs=1 seek=6 conv=notrunc status=none",
        glob, DUMP_FORMAT_VERSION + more);
    assert_int_equal(system(command), 0);
}

/* Whoever meets a dump of a program to come says so, and leaves it as it is. */
static void test_a_newer_format_is_refused_in_words(void **state) {
    (void)state;
    static const char *const kinds[] = {"manifests/*", "indexes/*/*", "chunks/*/*"};
    struct dump_store store;
    struct dump_report report, other;
    char path[DUMP_NAME_MAX], text[DUMP_TEXT_BYTES], glob[120], command[400];
    uint64_t seq;
    assert_int_equal(write_once(1, 10, &report), 0);
    open_store(&store, here.url);
    for (uint32_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        snprintf(glob, sizeof glob, "%s/objects/%s", here.dir, kinds[i]);
        add_version(glob, 1);
        assert_int_equal(dump_read(&store, &no_key, report.path, again, NULL, NULL, NULL, text),
                         MRN_ERR_UNSUPPORTED);
        assert_non_null(strstr(text, "format version 2; this program reads version 1"));
        if (i == 0) /* nor is anything built on it */
            assert_int_equal(write_once(1, 11, &other), MRN_ERR_UNSUPPORTED);
        add_version(glob, 0);
        assert_int_equal(dump_read(&store, &no_key, report.path, "", NULL, NULL, NULL, text), 0);
    }
    snprintf(
        command, sizeof command,
        "cd %s/objects && sed -i 's/\"format\": 1/\"format\": 2/' latest && cp latest ../latest",
        here.dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(dump_latest(&store, path, &seq, text), MRN_ERR_UNSUPPORTED);
    assert_non_null(strstr(text, "newer format version"));
    assert_int_equal(write_once(1, 12, &other), MRN_ERR_UNSUPPORTED);
    snprintf(command, sizeof command, "cmp %s/objects/latest %s/latest", here.dir, here.dir);
    assert_int_equal(system(command), 0);
    dump_store_close(&store);
}

/* The right name, bytes and hashes do not do: the signature must be that of the key in it. */
static void test_a_manifest_that_its_key_did_not_sign_is_refused(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_writer writer;
    struct dump_report report;
    struct dump_signer forger;
    char text[DUMP_TEXT_BYTES];
    crypto_sign_keypair(forger.public_key, forger.secret_key);
    memcpy(forger.public_key, signer.public_key, sizeof forger.public_key);
    open_store(&store, here.url);
    begin(&writer, &store);
    writer.signer = &forger;
    write_snapshot(10, 1);
    assert_int_equal(write_dump(&writer, &report), 0);
    assert_int_equal(dump_read(&store, &no_key, report.path, "", NULL, NULL, NULL, text),
                     MRN_ERR_DENIED);
    assert_non_null(strstr(text, "signature"));
    dump_state_free(&writer.state);
    dump_store_close(&store);
}

/* Whole, and the state in it is laid out otherwise: refused by its number, nothing of it is read.
 */
static void test_a_state_of_another_format_is_refused(void **state) {
    (void)state;
    struct snapshot_head head;
    char text[DUMP_TEXT_BYTES], expected[80];
    write_snapshot(10, 1);
    FILE *snapshot = fopen(here.snapshot, "r");
    assert_int_equal(fread(&head, sizeof head, 1, snapshot), 1);
    fclose(snapshot);
    assert_int_equal(dump_snapshot_head_check(&head, text), 0);
    head.format_version--;
    head.checksum = wire_hash_blake2b(&head, offsetof(struct snapshot_head, checksum));
    assert_int_equal(dump_snapshot_head_check(&head, text), MRN_ERR_UNSUPPORTED);
    snprintf(expected, sizeof expected, "format version %d, this program reads %d",
             SNAPSHOT_FORMAT_VERSION - 1, SNAPSHOT_FORMAT_VERSION);
    assert_non_null(strstr(text, expected));
}

static void test_prune(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_report report;
    struct dump_pruned pruned;
    char text[DUMP_TEXT_BYTES];
    for (uint64_t seq = 1; seq <= 5; seq++) {
        for (uint64_t page = 0; page < PAGES; page += 3)
            fill_page(page, (uint32_t)(200 + seq));
        assert_int_equal(write_once(1, seq, &report), 0);
    }
    open_store(&store, here.url);
    char command[400]; /* what a killed writer left */
    snprintf(command, sizeof command,
             "mkdir -p %s/objects/chunks/ab && echo x > %s/objects/chunks/ab/ab%062d", here.dir,
             here.dir, 7);
    assert_int_equal(system(command), 0);
    assert_int_equal(dump_prune(&store, &no_key, 2, 3600, "", &pruned, text), 0);
    assert_int_equal(pruned.manifests, 3);
    assert_int_equal(pruned.objects, 0); /* all young */
    assert_true(pruned.young > 0);
    assert_int_equal(dump_prune(&store, &no_key, 2, 0, "", &pruned, text), 0);
    assert_true(pruned.objects > 0);
    struct dump_listed *list;
    uint32_t count;
    assert_int_equal(dump_list(&store, &list, &count, text), 0);
    assert_int_equal(count, 2);
    assert_int_equal(list[0].seq, 4);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(dump_read(&store, &no_key, list[i].path, "", NULL, NULL, NULL, text), 0);
    expect_back(&store, &no_key, list[1].path);
    free(list);
    assert_int_equal(dump_prune(&store, &no_key, 2, 0, "", &pruned, text), 0);
    assert_int_equal(pruned.objects + pruned.manifests, 0); /* nothing orphaned is left */
    dump_store_close(&store);
}

/* A writer killed at any point: what the pointer names is whole, always. */
static void test_a_writer_killed_at_any_point(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_report report;
    char path[DUMP_NAME_MAX], text[DUMP_TEXT_BYTES];
    uint64_t seq = 0, last = 0;
    int moved = 0, killed = 0;
    assert_int_equal(write_once(1, 1, &report), 0);
    fill_page(1, 299);
    for (uint64_t page = 0; page < PAGES; page += 5)
        fill_page(page, 300);
    uint64_t since_ms = fixture_now_ms();
    assert_int_equal(write_once(1, 2, &report), 0);
    uint64_t took_ms = fixture_now_ms() - since_ms;
    open_store(&store, here.url);
    for (uint32_t round = 3; round <= 11; round++) {
        for (uint64_t page = round % 5; page < PAGES; page += 5)
            fill_page(page, 300 + round);
        write_snapshot(round, 1);
        pid_t pid = fork();
        if (pid == 0) {
            struct dump_store own;
            struct dump_writer writer;
            struct object_store_config config = {.url = here.url};
            if (dump_store_open(&own, &config, NULL))
                _exit(1);
            begin(&writer, &own);
            int fd = open(here.snapshot, O_RDONLY);
            _exit(dump_write(&writer, fd, &report, text) != 0);
        }
        int status;
        if (round <= 9) { /* 0 to 1.2 of what one took */
            usleep((useconds_t)(took_ms * 1000 * (round * 5 % 7) / 5));
            kill(pid, SIGKILL);
        }
        waitpid(pid, &status, 0);
        killed += WIFSIGNALED(status);
        assert_int_equal(dump_latest(&store, path, &seq, text), 0);
        if (dump_read(&store, &no_key, path, "", NULL, NULL, NULL, text))
            fail_msg("after a kill in round %u: %s", round, text);
        moved += seq != last;
        last = seq;
    }
    assert_true(moved >= 3 && killed >= 1);
    struct dump_pruned pruned;
    assert_int_equal(dump_prune(&store, &no_key, 1, 0, "", &pruned, text), 0);
    assert_int_equal(dump_read(&store, &no_key, path, "", NULL, NULL, NULL, text), 0);
    dump_store_close(&store);
}

static void count_pages(void *context, const struct dump_progress *progress) {
    *(struct dump_progress *)context = *progress;
}

static void test_a_fetch_is_taken_up(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_report report;
    struct dump_progress whole = {0}, rest = {0};
    char text[DUMP_TEXT_BYTES], command[256];
    assert_int_equal(write_once(1, 10, &report), 0);
    open_store(&store, here.url);
    assert_int_equal(
        dump_read(&store, &no_key, report.path, again, count_pages, &whole, NULL, text), 0);
    assert_int_equal(truncate(again, 8000000), 0);
    assert_int_equal(dump_read(&store, &no_key, report.path, again, count_pages, &rest, NULL, text),
                     0);
    assert_true(rest.fetched_bytes > 0 && rest.fetched_bytes < whole.fetched_bytes * 2 / 3);
    snprintf(command, sizeof command, "cmp %s %s", here.snapshot, again);
    assert_int_equal(system(command), 0);
    dump_store_close(&store);
}

static char *pointer_to(struct dump_store *store, const char *path) {
    struct dump_manifest manifest;
    char text[DUMP_TEXT_BYTES];
    assert_int_equal(dump_manifest_get(store, &no_key, path, &manifest, text), 0);
    char *pointer = dump_pointer_text(&manifest, path);
    dump_manifest_free(&manifest);
    return pointer;
}

/* A node that lacks the state: etcd's pointer first, then the store's. */
static void test_a_node_fetches_what_is_pointed_to(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_report first, second;
    char got[512], text[DUMP_TEXT_BYTES], command[900];
    uint64_t seq;
    assert_int_equal(write_once(1, 10, &first), 0);
    open_store(&store, here.url);
    char *old = pointer_to(&store, first.path);
    fill_page(5, 2);
    assert_int_equal(write_once(1, 20, &second), 0);
    struct dump_fetch fetch = {.store = &store,
                               .key = &no_key,
                               .configuration_id = 1,
                               .directory = here.dir,
                               .pointer = old};
    assert_int_equal(dump_fetch(&fetch, got, &seq, text), 0);
    assert_int_equal(seq, 10); /* the one that was named */
    fetch.newer_than = 10;
    assert_int_equal(dump_fetch(&fetch, got, &seq, text), 0);
    assert_int_equal(seq, 20);
    snprintf(command, sizeof command, "cmp %s %s && test $(ls %s | grep -c fetch-) = 1",
             here.snapshot, got, here.dir);
    assert_int_equal(system(command), 0); /* what the first left is gone */
    fetch.newer_than = 20;
    assert_int_equal(dump_fetch(&fetch, got, &seq, text), MRN_ERR_NOT_FOUND);
    fetch.newer_than = 0;
    fetch.configuration_id = 2;
    assert_int_equal(dump_fetch(&fetch, got, &seq, text), MRN_ERR_MISMATCH);
    fetch.configuration_id = 1;
    /* The manifest that etcd names was pruned. */
    assert_int_equal(dump_store_remove(&store, first.path), 0);
    assert_int_equal(dump_fetch(&fetch, got, &seq, text), 0);
    assert_int_equal(seq, 20);
    fetch.pointer = "not a pointer";
    assert_int_equal(dump_fetch(&fetch, got, &seq, text), 0);
    free(old);
    dump_store_close(&store);
}

/* Where a fetch of all PAGES spent `took_us`: no phase is missing, none is longer than it can be.
 */
static void expect_costs(const struct dump_progress *p, uint64_t took_us, bool end) {
    assert_int_equal(p->pages_done, p->pages);
    assert_true(p->indexes_us && p->chunks_us && p->unpack_us && p->indexes_bytes);
    assert_true((p->gets_us > 0) == (p->fetched_bytes > 0));
    assert_int_equal(p->end_us > 0, end);
    assert_true(p->indexes_us + p->chunks_us + p->end_us <= took_us);
    assert_true(p->gets_us <= p->chunks_us * DUMP_READ_CHUNKS);
    assert_true(p->unpack_us <= p->chunks_us * 5); /* workers */
    assert_true(p->gets_us + p->unpack_us <= p->chunks_us * DUMP_READ_CHUNKS);
    assert_true(p->indexes_bytes < p->pages * 100 && p->indexes_bytes > p->pages * 20);
}

static void note_progress(void *context, uint64_t seq, const struct dump_progress *progress) {
    (void)seq;
    *(struct dump_progress *)context = *progress;
}

/* Dumps come quicker than a node that is killed again and again gets one: what it has of the last
 * one it does not get anew with the next. */
static void test_a_fetch_goes_on_with_the_next_dump(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_report report;
    struct dump_progress progress;
    char got[512], text[DUMP_TEXT_BYTES], command[1600];
    uint64_t seq, whole = 0;
    open_store(&store, here.url);
    struct dump_fetch fetch = {.store = &store,
                               .key = &no_key,
                               .configuration_id = 1,
                               .directory = here.dir,
                               .pointer = "",
                               .tell = note_progress,
                               .context = &progress};
    for (uint64_t dump = 10; dump <= 40; dump += 10) {
        fill_page(dump, (uint32_t)dump);
        assert_int_equal(write_once(1, dump, &report), 0);
        uint64_t since_ns = dump_fixture_now_ns();
        assert_int_equal(dump_fetch(&fetch, got, &seq, text), 0);
        assert_int_equal(seq, dump);
        expect_costs(&progress, (dump_fixture_now_ns() - since_ns) / 1000, true);
        if (dump == 10)
            whole = progress.fetched_bytes;
        else
            assert_true(progress.fetched_bytes > 0 && progress.fetched_bytes < whole / 100);
        snprintf(command, sizeof command, "cmp %s %s && test $(ls %s | grep -c fetch-) = 1",
                 here.snapshot, got, here.dir);
        assert_int_equal(system(command), 0);
        if (dump == 20) { /* cut short and damaged, as a killed one or a lost write leaves it */
            snprintf(command, sizeof command,
                     "truncate -s -2000000 %s && "
                     "dd if=/dev/urandom of=%s bs=1000 seek=5000 count=1 conv=notrunc status=none",
                     got, got);
            assert_int_equal(system(command), 0);
            assert_int_equal(dump_fetch(&fetch, got, &seq, text), 0);
            assert_true(progress.fetched_bytes > 2000000 && progress.fetched_bytes < whole);
        }
    }
    dump_store_close(&store);
}

static void test_through_a_bad_line_to_s3(void **state) {
    (void)state;
    if (!have_server)
        skip();
    struct dump_store store;
    struct dump_writer writer;
    struct dump_report report;
    char text[DUMP_TEXT_BYTES];
    open_store(&store, "s3://" STORE_BUCKET "/a/dump");
    begin(&writer, &store);
    write_snapshot(10, 1);
    store_fault(&server, "fault cut_up bytes=100000 skip=3 count=4");
    store_fault(&server, "fault status code=503 s3code=SlowDown skip=9 count=4");
    store_fault(&server, "fault wrong_up skip=5 count=2");
    assert_int_equal(write_dump(&writer, &report), 0);
    store_fault(&server, "clear");
    expect_back(&store, &no_key, report.path);
    store_fault(&server, "fault cut_down bytes=300000 skip=3 count=3");
    store_fault(&server, "fault wrong_down skip=6 count=2");
    expect_back(&store, &no_key, report.path);
    store_fault(&server, "clear");
    /* One that stays away ends the dump; the next takes up what was stored. */
    for (uint64_t page = 0; page < PAGES; page++)
        fill_page(page, 400);
    write_snapshot(20, 1);
    store_fault(&server, "fault status code=503 method=PUT skip=6");
    assert_int_equal(write_dump(&writer, &report), MRN_ERR_UNAVAILABLE);
    store_fault(&server, "clear");
    assert_int_equal(write_dump(&writer, &report), 0);
    assert_true(report.skipped_bytes > 0);
    expect_back(&store, &no_key, report.path);
    /* The store lies, for good. */
    store_fault(&server, "fault wrong_down match=chunks");
    assert_int_equal(dump_read(&store, &no_key, report.path, "", NULL, NULL, NULL, text),
                     MRN_ERR_CORRUPT);
    store_fault(&server, "clear");
    dump_state_free(&writer.state);
    dump_store_close(&store);
}

/* A store that takes objects and has not got them afterwards, or others: nothing is pointed to that
 * was not read back. */
static void test_a_store_that_lies(void **state) {
    (void)state;
    if (!have_server)
        skip();
    static const char *const lies[] = {"fault lie_up method=PUT match=chunks count=2",
                                       "fault drop_up method=PUT match=chunks count=2",
                                       "fault lie_up method=PUT match=indexes count=1",
                                       "fault drop_up method=PUT match=manifests count=1",
                                       "fault drop_up method=PUT match=latest count=1"};
    struct dump_store store;
    struct dump_writer writer;
    struct dump_report report;
    char path[DUMP_NAME_MAX], text[DUMP_TEXT_BYTES];
    uint64_t seq;
    open_store(&store, "s3://" STORE_BUCKET "/a/lies");
    begin(&writer, &store);
    memset(region + (size_t)1200 * DUMP_PAGE_BYTES, 0, (size_t)(PAGES - 1200) * DUMP_PAGE_BYTES);
    for (uint32_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        for (uint64_t page = i; page < 1200; page += 3)
            fill_page(page, 500 + i);
        write_snapshot(10 * (i + 1), 1);
        store_fault(&server, lies[i]);
        uint64_t before = store.lies;
        assert_int_equal(write_dump(&writer, &report), 0);
        store_fault(&server, "clear");
        if (i < 4)
            assert_true(store.lies > before && store.lie[0]);
        assert_true(report.checked_bytes + 1000 > report.sent_bytes); /* all but the pointer */
        expect_back(&store, &no_key, report.path);
        assert_int_equal(dump_latest(&store, path, &seq, text), 0);
        assert_string_equal(path, report.path);
    }
    /* It goes on lying: the pointer stays where it was, and the words say why. */
    static const char *const constant[] = {"fault lie_up method=PUT match=chunks",
                                           "fault drop_up method=PUT match=manifests",
                                           "fault drop_up method=PUT match=latest"};
    for (uint32_t i = 0; i < sizeof constant / sizeof *constant; i++) {
        char again_path[DUMP_NAME_MAX];
        fill_page(7, 600 + i);
        write_snapshot(100 + i, 1);
        store_fault(&server, constant[i]);
        assert_int_equal(write_dump(&writer, &report), MRN_ERR_CORRUPT);
        store_fault(&server, "clear");
        assert_int_equal(dump_latest(&store, again_path, &seq, text), 0);
        assert_string_equal(again_path, path);
        assert_int_equal(dump_read(&store, &no_key, path, "", NULL, NULL, NULL, text), 0);
    }
    assert_int_equal(write_dump(&writer, &report), 0);
    expect_back(&store, &no_key, report.path);
    dump_state_free(&writer.state);
    dump_store_close(&store);
}

/* An object of the newest dump is gone, or another one: the next dump does not build on it. */
static void test_what_the_newest_dump_lost_is_sent_anew(void **state) {
    (void)state;
    static const char *const harms[] = {"rm $(ls %s/objects/chunks/*/* | head -1)",
                                        "truncate -s 100 $(ls %s/objects/chunks/*/* | tail -1)",
                                        "rm $(ls %s/objects/indexes/*/* | head -1)",
                                        "for f in %s/objects/chunks/*/*; do printf x | dd of=$f "
                                        "bs=1 seek=200 conv=notrunc status=none; done",
                                        "for f in %s/objects/indexes/*/*; do printf x | dd of=$f "
                                        "bs=1 seek=20 conv=notrunc status=none; done",
                                        "for f in %s/objects/manifests/*; do printf x | dd of=$f "
                                        "bs=1 seek=60 conv=notrunc status=none; done"};
    struct dump_report report;
    struct dump_pruned pruned;
    char text[DUMP_TEXT_BYTES];
    uint64_t seq = 1;
    memset(region + (size_t)1200 * DUMP_PAGE_BYTES, 0, (size_t)(PAGES - 1200) * DUMP_PAGE_BYTES);
    assert_int_equal(write_once(1, seq, &report), 0);
    for (uint32_t i = 0; i < sizeof harms / sizeof *harms; i++) {
        for (int fresh = 0; fresh < 2;
             fresh++) { /* a writer that knows the dump, and one that loads it */
            struct dump_store store;
            struct dump_writer writer;
            char command[300];
            open_store(&store, here.url);
            begin(&writer, &store);
            fill_page(3, (uint32_t)seq);
            write_snapshot(++seq, 1);
            assert_int_equal(write_dump(&writer, &report), 0);
            uint64_t previous = seq;
            assert_int_equal(dump_prune(&store, &no_key, 1, 0, "", &pruned, text), 0);
            snprintf(command, sizeof command, harms[i], here.dir);
            assert_int_equal(system(command), 0);
            if (fresh)
                dump_state_free(&writer.state);
            fill_page(3, (uint32_t)seq);
            write_snapshot(++seq, 1);
            bool unseen =
                !fresh && i >= 4; /* index and manifest are in memory, and not read again */
            uint64_t lies = store.lies;
            assert_int_equal(write_dump(&writer, &report), 0);
            assert_int_equal(store.lies > lies, !unseen);
            assert_int_equal(writer.state.manifest.previous_seq, previous);
            if (unseen) { /* who loads them finds it */
                dump_state_free(&writer.state);
                write_snapshot(++seq, 1);
                assert_int_equal(write_dump(&writer, &report), 0);
                assert_int_equal(store.lies > lies,
                                 i == 4); /* that manifest is no part of the new one */
            }
            expect_back(&store, &no_key, report.path);
            dump_state_free(&writer.state);
            dump_store_close(&store);
        }
    }
}

/* The pointer is a hint: without it, or when it is noise, the manifests say which dump is the
 * newest. */
static void test_a_lost_pointer_is_written_anew(void **state) {
    (void)state;
    static const char *const harms[] = {"rm %s/objects/latest", "echo noise > %s/objects/latest",
                                        "head -c 9000 /dev/zero > %s/objects/latest"};
    struct dump_report report;
    struct dump_store store;
    char pointer[1024], path[DUMP_NAME_MAX], text[DUMP_TEXT_BYTES], command[200];
    uint64_t seq = 1, at;
    bool lost;
    assert_int_equal(write_once(1, seq, &report), 0);
    for (uint32_t i = 0; i < sizeof harms / sizeof *harms; i++) {
        snprintf(command, sizeof command, harms[i], here.dir);
        assert_int_equal(system(command), 0);
        open_store(&store, here.url);
        assert_int_equal(
            dump_newest(&store, &no_key, pointer, sizeof pointer, path, &at, &lost, text), 0);
        assert_int_equal(lost, i > 0);
        assert_int_equal(at, seq);
        assert_string_equal(path, report.path);
        dump_store_close(&store);
        fill_page(2, 700 + (uint32_t)seq);
        assert_int_equal(write_once(1, ++seq, &report), 0);
        assert_int_equal(report.changed_pages, 1); /* it builds on that one */
        open_store(&store, here.url);
        assert_int_equal(dump_latest(&store, path, &at, text), 0);
        assert_string_equal(path, report.path);
        dump_store_close(&store);
    }
}

/* Two writers of one epoch: both dumps are whole, and prune keeps the one that is pointed to. */
static void test_prune_of_two_dumps_of_one_epoch(void **state) {
    (void)state;
    struct dump_report report;
    struct dump_store store;
    struct dump_pruned pruned;
    char path[DUMP_NAME_MAX], text[DUMP_TEXT_BYTES], command[400];
    uint64_t seq;
    assert_int_equal(write_once(1, 5, &report), 0);
    snprintf(command, sizeof command, "cd %s/objects && mv manifests a && mv latest b", here.dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(write_once(1, 5, &report), 0);
    snprintf(command, sizeof command,
             "cd %s && mv objects/a/* objects/manifests/ && cp -a objects copy", here.dir);
    assert_int_equal(system(command), 0);
    for (int other = 0; other < 2; other++) {
        snprintf(command, sizeof command, "cd %s && rm -r objects && cp -a copy objects%s",
                 here.dir, other ? " && mv objects/b objects/latest" : "");
        assert_int_equal(system(command), 0);
        open_store(&store, here.url);
        assert_int_equal(dump_latest(&store, path, &seq, text), 0);
        assert_int_equal(strcmp(path, report.path) == 0, !other);
        assert_int_equal(dump_prune(&store, &no_key, 1, 0, "", &pruned, text), 0);
        assert_int_equal(pruned.manifests, 1);
        assert_int_equal(dump_read(&store, &no_key, path, "", NULL, NULL, NULL, text), 0);
        dump_store_close(&store);
    }
}

/* While a dump is made others can see it; afterwards, and after a prune, no trace of that is left.
 */
static void test_a_dump_under_way_can_be_seen(void **state) {
    (void)state;
    struct dump_store store;
    struct dump_writer writer;
    struct dump_report report;
    struct dump_pruned pruned;
    char mark[DUMP_MARK_MAX], before[DUMP_MARK_MAX], text[DUMP_TEXT_BYTES], command[200];
    uint32_t node = 7;
    open_store(&store, here.url);
    begin(&writer, &store);
    writer.node = 2;
    dump_mark_get(&store, mark, &node);
    assert_string_equal(mark, "");
    write_snapshot(10, 1);
    /* One that comes to nothing: the place of manifests is taken. */
    snprintf(command, sizeof command, "touch %s/objects/manifests", here.dir);
    assert_int_equal(system(command), 0);
    assert_int_not_equal(write_dump(&writer, &report), 0);
    dump_mark_get(&store, before, &node);
    assert_true(before[0]);
    assert_int_equal(node, 2);
    dump_mark_put(&store, 1, 5, 6);
    assert_int_equal(dump_store_wait(&store), 0);
    dump_mark_get(&store, mark, &node);
    assert_string_not_equal(mark, before);
    assert_int_equal(node, 1);
    snprintf(command, sizeof command, "rm %s/objects/manifests", here.dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(write_dump(&writer, &report), 0);
    dump_mark_get(&store, mark, &node);
    assert_string_equal(mark, "");
    dump_mark_put(&store, 1, 5, 7);
    assert_int_equal(dump_store_wait(&store), 0);
    assert_int_equal(dump_prune(&store, &no_key, 1, 0, "", &pruned, text), 0);
    dump_mark_get(&store, mark, &node);
    assert_string_equal(mark, "");
    dump_state_free(&writer.state);
    dump_store_close(&store);
}

/* A bar on a terminal, lines elsewhere, at most ten and one in a second, and the end in any case.
 */
static void test_progress_is_shown(void **state) {
    (void)state;
    char text[DUMP_SHOW_BYTES];
    struct dump_progress half = {.pages = 1000, .pages_done = 500, .fetched_bytes = 12345},
                         all = half;
    struct dump_show bar = {.terminal = true, .since_ns = 1}, lines = {.since_ns = 1};
    all.pages_done = 1000;
    assert_true(dump_show(&bar, 1000000001, &half, text));
    assert_non_null(strstr(text, "\r[####################                    ]  50 %"));
    assert_non_null(strstr(text, "2.0 MB/s"));
    assert_false(dump_show(&bar, 1050000001, &half, text));
    assert_true(dump_show(&bar, 1110000001, &half, text));
    assert_true(dump_show(&bar, 1111000001, &all, text));
    assert_non_null(strstr(text, "100 %"));
    assert_false(dump_show(&bar, 9000000001, &all, text)); /* it has ended */
    assert_true(dump_show(&lines, 1000000001, &half, text));
    assert_string_equal(text, "pages=500 of=1000 fetched_bytes=12345 mb_per_s=2.0");
    assert_false(dump_show(&lines, 1900000001, &half, text));
    assert_true(dump_show(&lines, 2000000001, &half, text));
}

static void test_the_leader_comes_last(void **state) {
    (void)state;
    assert_int_equal(dumper_patience(1, 0, 3), 1);
    assert_int_equal(dumper_patience(2, 0, 3), 2);
    assert_int_equal(dumper_patience(0, 0, 3), 3);
    assert_int_equal(dumper_patience(0, 2, 3), 1);
    assert_int_equal(dumper_patience(0, 0, 1), 1);
}

int main(void) {
    assert_true(sodium_init() >= 0);
    setenv("AWS_ACCESS_KEY_ID", STORE_ACCESS_KEY, 1);
    setenv("AWS_SECRET_ACCESS_KEY", STORE_SECRET_KEY, 1);
    crypto_sign_keypair(signer.public_key, signer.secret_key);
    region = malloc((size_t)PAGES * DUMP_PAGE_BYTES);
    have_server = store_server_start(&server, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_there_and_back_incrementally, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_garbage_is_bounded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sealed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_every_damage_is_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_damaged_snapshot_or_another_cluster_is_refused,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_newer_format_is_refused_in_words, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_manifest_that_its_key_did_not_sign_is_refused,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_state_of_another_format_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_prune, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_writer_killed_at_any_point, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_fetch_is_taken_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_node_fetches_what_is_pointed_to, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_fetch_goes_on_with_the_next_dump, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_through_a_bad_line_to_s3, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_store_that_lies, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_the_newest_dump_lost_is_sent_anew, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_lost_pointer_is_written_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_prune_of_two_dumps_of_one_epoch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_dump_under_way_can_be_seen, set_up, tear_down),
        cmocka_unit_test(test_progress_is_shown),
        cmocka_unit_test(test_the_leader_comes_last),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (have_server)
        store_server_stop(&server);
    free(region);
    return failed;
}
