/* Dumps at size: a state made and dumped, the dump fetched and restored as a node does it, and the
 * floor of that: the same objects by plain GETs on as many cores. */
#include "perf/probe.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zstd.h>

#include "bank/v1/bank.pb-c.h"
#include "controlplane/dump/dump_read.h"
#include "controlplane/dump/dump_write.h"
#include "maroon/error.h"
#include "perf/clock.h"
#include "runtime/applications/applications.h"
#include "runtime/restore_file.h"
#include "runtime/runtime.h"

#define EPOCH_BODIES 256
#define ECHO_BYTES (256u << 10)
#define CONNECTIONS 8

static uint64_t cpu_ns(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return ((uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec) * 1000000000 +
           ((uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec) * 1000;
}

static void store_open(struct dump_store *store) {
    struct object_store_config config = {
        .url = probe_text("url", ""),
        .endpoint = probe_text("endpoint", ""),
        .credentials_file = probe_text("credentials-file", ""),
    };
    if (dump_store_open(store, &config, NULL))
        probe_die("%s", store->text);
}

/* ---- a state of some size ---- */

struct maker {
    struct runtime *runtime;
    uint64_t seq, next_id;
    struct runtime_body bodies[EPOCH_BODIES];
    uint8_t *rooms;
};

static void epoch_run(struct maker *m, uint32_t count) {
    const struct wire_control open = {WIRE_CONTROL_OPEN, 0, 1};
    m->seq++;
    struct runtime_epoch epoch = {.seq = m->seq,
                                  .term = 1,
                                  .logical_time_us = m->seq,
                                  .controls = &open,
                                  .control_count = m->seq == 1,
                                  .bodies = m->bodies,
                                  .body_count = count};
    int error = runtime_execute_epoch(m->runtime, &epoch, NULL, NULL);
    if (error)
        probe_die("an epoch is refused: %s", mrn_error_text(error));
}

/* Small, alike: what a table of accounts packs to. */
static void accounts_add(struct maker *m) {
    for (uint32_t i = 0; i < EPOCH_BODIES; i++) {
        struct wire_body_header header = {.service = wire_name_id("bank.v1.Bank", 12),
                                          .method = wire_name_id("Deposit", 7),
                                          .low_water = wire_tx_offset(m->next_id)};
        Bank__V1__DepositRequest request = BANK__V1__DEPOSIT_REQUEST__INIT;
        uint8_t *room = m->rooms + (size_t)i * 64;
        request.account = m->next_id;
        request.amount = 1 + randombytes_uniform(1000000);
        memcpy(room, &header, sizeof header);
        size_t bytes = protobuf_c_message_pack(&request.base, room + sizeof header);
        m->bodies[i] = (struct runtime_body){m->next_id++, room, (uint32_t)(sizeof header + bytes)};
    }
    epoch_run(m, EPOCH_BODIES);
}

/* Random bytes, remembered under a key: what no packing helps. An EchoRequest's one field is the
 * payload. */
static void echo_add(struct maker *m) {
    static const uint8_t field[] = {0x0a, 0x80, 0x80, 0x10}; /* 1, 256 KiB of bytes */
    struct wire_body_header header = {.service = wire_name_id("echo.v1.Echo", 12),
                                      .method = wire_name_id("Echo", 4),
                                      .flags = WIRE_BODY_EXTENDED,
                                      .low_water = wire_tx_offset(m->next_id)};
    uint8_t *at = m->rooms;
    memcpy(at, &header, sizeof header);
    at += sizeof header;
    randombytes_buf(at, sizeof(struct wire_body_extension));
    at += sizeof(struct wire_body_extension);
    memcpy(at, field, sizeof field);
    at += sizeof field;
    randombytes_buf(at, ECHO_BYTES);
    at += ECHO_BYTES;
    m->bodies[0] = (struct runtime_body){m->next_id++, m->rooms, (uint32_t)(at - m->rooms)};
    epoch_run(m, 1);
}

static int write_file(void *user, const void *bytes, size_t length_bytes) {
    return fwrite(bytes, length_bytes, 1, user) == 1 ? 0 : MRN_ERR_IO;
}

static void state_make(const char *file, const char *kind, uint64_t bytes) {
    struct runtime_config config;
    struct runtime_facts facts;
    struct runtime_snapshot_info info;
    bool echo = strcmp(kind, "random") == 0;
    struct maker m = {.rooms = malloc(ECHO_BYTES + 256)};
    runtime_config_defaults(&config);
    config.applications = applications_list(&config.application_count);
    config.state_bytes = echo ? 16u << 20 : 2 * bytes;
    if (echo)
        config.idempotency_bytes = bytes + (2u << 20);
    if (!m.rooms || runtime_open(&config, &m.runtime))
        probe_die("no memory");
    uint64_t begun_with = 0;
    do {
        if (echo)
            echo_add(&m);
        else
            accounts_add(&m);
        runtime_facts(m.runtime, &facts);
        if (m.seq == 1)
            begun_with = facts.pages_touched;
    } while ((facts.pages_touched - begun_with) * RUNTIME_PAGE_BYTES < bytes);
    FILE *out = fopen(file, "we");
    if (!out || runtime_snapshot_write(m.runtime, write_file, out, &info) || fclose(out))
        probe_die("%s cannot be written", file);
    runtime_close(m.runtime);
    free(m.rooms);
}

static void writer_begin(struct dump_writer *writer, struct dump_store *store,
                         struct dump_signer *signer) {
    static const struct dump_key none;
    crypto_sign_keypair(signer->public_key, signer->secret_key);
    *writer = (struct dump_writer){.store = store, .key = &none, .signer = signer};
    snprintf(writer->cluster, sizeof writer->cluster, "measured");
}

/* --file: the snapshot, made unless it is there. */
int probe_dump_make(void) {
    char text[DUMP_TEXT_BYTES];
    struct dump_store store;
    struct dump_signer signer;
    struct dump_writer writer;
    struct dump_report report;
    const char *file = probe_text("file", "state"), *kind = probe_text("kind", "random");
    uint64_t bytes = probe_number("bytes", UINT64_C(256) << 20);
    store_open(&store);
    probe_options_end();
    if (access(file, R_OK))
        state_make(file, kind, bytes);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        probe_die("%s cannot be read", file);
    writer_begin(&writer, &store, &signer);
    uint64_t since_ns = perf_clock_ns(), cpu = cpu_ns();
    if (dump_write(&writer, fd, &report, text))
        probe_die("%s", text);
    uint64_t all_ns = perf_clock_ns() - since_ns;
    close(fd);
    probe_print(json_pack("{sI sI sI sI}", "page_bytes",
                          (json_int_t)(report.pages * DUMP_PAGE_BYTES), "object_bytes",
                          (json_int_t)report.sent_bytes, "ns", (json_int_t)all_ns, "cpu_ns",
                          (json_int_t)(cpu_ns() - cpu)));
    dump_state_free(&writer.state);
    dump_store_close(&store);
    return 0;
}

/* ---- what a node does ---- */

static void tell(void *context, const struct dump_progress *progress) {
    *(struct dump_progress *)context = *progress;
}

static struct runtime *restore(const char *file, const struct dump_manifest *manifest) {
    struct runtime_config config;
    struct runtime_snapshot_info info;
    struct runtime *runtime;
    runtime_config_defaults(&config);
    runtime_config_of_snapshot(&manifest->head, &config);
    config.configuration_id = manifest->head.configuration_id;
    config.genesis_hash = manifest->head.origin;
    config.applications = applications_list(&config.application_count);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || runtime_open(&config, &runtime))
        probe_die("no runtime to restore into");
    int error = runtime_restore_file(runtime, fd, &info);
    if (error)
        probe_die("the runtime refuses the state: %s", mrn_error_text(error));
    close(fd);
    return runtime;
}

/* From the pointer to the state in a runtime. */
int probe_dump_fetch(void) {
    static const struct dump_key none;
    char text[DUMP_TEXT_BYTES], path[DUMP_NAME_MAX];
    struct dump_store store;
    struct dump_manifest manifest = {0};
    struct dump_progress progress = {0};
    const char *file = probe_text("file", "fetched");
    uint64_t seq;
    (void)unlink(file);
    store_open(&store);
    probe_options_end();
    uint64_t since_ns = perf_clock_ns(), cpu = cpu_ns();
    int error = dump_latest(&store, path, &seq, text);
    if (!error)
        error = dump_read(&store, &none, path, file, tell, &progress, &manifest, text);
    if (error)
        probe_die("%s", text);
    uint64_t fetch_ns = perf_clock_ns() - since_ns, fetch_cpu = cpu_ns() - cpu;
    struct runtime *runtime = restore(file, &manifest);
    uint64_t all_ns = perf_clock_ns() - since_ns, all_cpu = cpu_ns() - cpu;
    probe_print(json_pack(
        "{sI sI sI sI sI sI sI}", "page_bytes", (json_int_t)(progress.pages * DUMP_PAGE_BYTES),
        "object_bytes", (json_int_t)progress.fetched_bytes, "fetch_ns", (json_int_t)fetch_ns,
        "fetch_cpu_ns", (json_int_t)fetch_cpu, "restore_ns", (json_int_t)(all_ns - fetch_ns),
        "restore_cpu_ns", (json_int_t)(all_cpu - fetch_cpu), "all_ns", (json_int_t)all_ns));
    runtime_close(runtime);
    dump_manifest_free(&manifest);
    dump_store_close(&store);
    (void)unlink(file);
    return 0;
}

/* ---- the floor ---- */

struct object {
    char path[DUMP_NAME_MAX];
    struct wire_hash name;
    uint64_t bytes;
    uint32_t pages; /* 0: not packed */
};

struct floor {
    const char *base; /* URL */
    struct object *objects;
    uint32_t count;
    bool work; /* hash and unpack as well */
    _Atomic uint32_t next;
    _Atomic uint64_t got_bytes, page_bytes;
};

struct arrived {
    uint8_t *bytes;
    uint64_t count, room;
};

static size_t take(char *bytes, size_t size, size_t count, void *user) {
    struct arrived *arrived = user;
    if (arrived->count + size * count > arrived->room)
        return 0;
    memcpy(arrived->bytes + arrived->count, bytes, size * count);
    arrived->count += size * count;
    return size * count;
}

static void check(struct floor *f, const struct object *object, const struct arrived *arrived,
                  uint8_t *pages) {
    const uint64_t head = 16, packed = head + 8; /* of an object, and of a chunk */
    struct wire_hash hash = wire_hash_blake2b(arrived->bytes + head, arrived->count - head);
    if (memcmp(&hash, &object->name, sizeof hash) != 0)
        probe_die("%s is damaged", object->path);
    size_t raw = (size_t)object->pages * DUMP_PAGE_BYTES;
    if (raw && ZSTD_decompress(pages, raw, arrived->bytes + packed, arrived->count - packed) != raw)
        probe_die("%s cannot be unpacked", object->path);
    atomic_fetch_add(&f->page_bytes, raw);
}

static void *get_objects(void *user) {
    struct floor *f = user;
    CURL *easy = curl_easy_init();
    uint8_t *pages = malloc((size_t)DUMP_CHUNK_PAGES * DUMP_PAGE_BYTES);
    struct arrived arrived = {.room = UINT64_C(64) << 20};
    arrived.bytes = malloc(arrived.room);
    if (!easy || !pages || !arrived.bytes)
        probe_die("no memory");
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &arrived);
    curl_easy_setopt(easy, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    for (uint32_t i; (i = atomic_fetch_add(&f->next, 1)) < f->count;) {
        char url[1024];
        snprintf(url, sizeof url, "%s/%s", f->base, f->objects[i].path);
        arrived.count = 0;
        curl_easy_setopt(easy, CURLOPT_URL, url);
        CURLcode code = curl_easy_perform(easy);
        if (code || arrived.count != f->objects[i].bytes)
            probe_die("%s: %s", url, curl_easy_strerror(code));
        atomic_fetch_add(&f->got_bytes, arrived.count);
        if (f->work)
            check(f, &f->objects[i], &arrived, pages);
    }
    curl_easy_cleanup(easy);
    free(pages);
    free(arrived.bytes);
    return NULL;
}

/* Every index and chunk of the newest dump, in the order in which a node wants them. */
static void objects_of(struct floor *f, const struct dump_manifest *manifest) {
    f->objects = calloc(2 * (size_t)manifest->chunk_count + 1, sizeof *f->objects);
    if (!f->objects)
        probe_die("no memory");
    for (int kind = 0; kind < 2; kind++)
        for (uint32_t i = 0; i < manifest->chunk_count; i++) {
            const struct dump_chunk *chunk = &manifest->chunks[i];
            struct object *object = &f->objects[f->count++];
            object->name = kind ? chunk->name : chunk->index;
            object->bytes = kind ? chunk->chunk_bytes : chunk->index_bytes;
            object->pages = kind ? chunk->pages : 0;
            dump_object_path(kind ? DUMP_CHUNK : DUMP_INDEX, &object->name, object->path);
        }
}

/* --base: where plain GETs find what --url names. --work=1: hash and unpack, too. */
int probe_dump_floor(void) {
    static const struct dump_key none;
    char text[DUMP_TEXT_BYTES], path[DUMP_NAME_MAX];
    struct dump_store store;
    struct dump_manifest manifest;
    struct floor f = {.base = probe_text("base", ""), .work = probe_number("work", 1)};
    pthread_t threads[CONNECTIONS];
    uint64_t seq;
    store_open(&store);
    probe_options_end();
    if (dump_latest(&store, path, &seq, text) ||
        dump_manifest_get(&store, &none, path, &manifest, text))
        probe_die("%s", text);
    objects_of(&f, &manifest);
    uint64_t since_ns = perf_clock_ns(), cpu = cpu_ns();
    for (uint32_t i = 0; i < CONNECTIONS; i++)
        if (pthread_create(&threads[i], NULL, get_objects, &f))
            probe_die("no thread");
    for (uint32_t i = 0; i < CONNECTIONS; i++)
        pthread_join(threads[i], NULL);
    uint64_t all_ns = perf_clock_ns() - since_ns;
    probe_print(json_pack("{sI sI sI sI}", "object_bytes", (json_int_t)f.got_bytes, "page_bytes",
                          (json_int_t)f.page_bytes, "ns", (json_int_t)all_ns, "cpu_ns",
                          (json_int_t)(cpu_ns() - cpu)));
    free(f.objects);
    dump_manifest_free(&manifest);
    dump_store_close(&store);
    return 0;
}
