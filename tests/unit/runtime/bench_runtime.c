/* ns for each bank transfer, all of execution included; and what a snapshot and a state hash cost.
 *
 *   bench_runtime [accounts [transfers]]     defaults: 100,000 accounts, 2,000,000 transfers */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bank/v1/bank.pb-c.h"
#include "runtime/applications/applications.h"
#include "runtime/runtime.h"

#define EPOCH_BODIES 256
#define BODY_ROOM 64

struct bench {
    struct runtime *runtime;
    uint64_t seq, next_id, results, bytes_written;
    struct runtime_body bodies[EPOCH_BODIES];
    uint8_t rooms[EPOCH_BODIES][BODY_ROOM];
};

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void die(const char *what, int error) {
    fprintf(stderr, "bench_runtime: %s: %d\n", what, error);
    exit(1);
}

static void count_result(void *user, const struct runtime_result *result) {
    struct bench *bench = user;
    bench->results += result->code == MRN_CODE_OK;
}

static void add(struct bench *bench, uint32_t place, const char *method,
                const ProtobufCMessage *message) {
    uint32_t offset = wire_tx_offset(bench->next_id);
    struct wire_body_header header = {.service = wire_name_id("bank.v1.Bank", 12),
                                      .method = wire_name_id(method, strlen(method)),
                                      .low_water = offset > 1000 ? offset - 1000 : 0};
    memcpy(bench->rooms[place], &header, sizeof header);
    size_t length_bytes = protobuf_c_message_pack(message, bench->rooms[place] + sizeof header);
    bench->bodies[place] = (struct runtime_body){bench->next_id++, bench->rooms[place],
                                                 (uint32_t)(sizeof header + length_bytes)};
}

/* Executes an epoch; returns the ns it took. */
static double run(struct bench *bench, uint32_t body_count) {
    const struct wire_control open = {WIRE_CONTROL_OPEN, 0, 1};
    bench->seq++;
    struct runtime_epoch epoch = {.seq = bench->seq,
                                  .term = 1,
                                  .logical_time_us = bench->seq,
                                  .hash = wire_hash_blake2b(&bench->seq, sizeof bench->seq),
                                  .controls = &open,
                                  .control_count = bench->seq == 1,
                                  .bodies = bench->bodies,
                                  .body_count = body_count};
    double start = now_ns();
    int error = runtime_execute_epoch(bench->runtime, &epoch, count_result, bench);
    double took = now_ns() - start;
    if (error != 0)
        die("execute", error);
    return took;
}

static void fill(struct bench *bench, uint64_t accounts) {
    uint64_t account = 0;
    double took = 0;
    while (account < accounts) {
        uint32_t count = 0;
        for (; count < EPOCH_BODIES && account < accounts; count++, account++) {
            Bank__V1__DepositRequest request = BANK__V1__DEPOSIT_REQUEST__INIT;
            request.account = account;
            request.amount = 1000000;
            add(bench, count, "Deposit", &request.base);
        }
        took += run(bench, count);
    }
    printf("deposit to a new account   %7.1f ns\n", took / (double)accounts);
}

static void transfers(struct bench *bench, uint64_t accounts, uint64_t transfer_count,
                      uint32_t epoch_bodies) {
    double took = 0;
    uint64_t random = 1, done = 0;
    bench->results = 0;
    while (done < transfer_count) {
        for (uint32_t i = 0; i < epoch_bodies; i++) {
            Bank__V1__TransferRequest request = BANK__V1__TRANSFER_REQUEST__INIT;
            random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
            request.from = (random >> 33) % accounts;
            request.to = (random >> 20) % accounts;
            request.amount = 1;
            add(bench, i, "Transfer", &request.base);
        }
        took += run(bench, epoch_bodies);
        done += epoch_bodies;
    }
    printf("transfer, %3u in an epoch   %7.1f ns  (%llu of %llu ok)\n", epoch_bodies,
           took / (double)done, (unsigned long long)bench->results, (unsigned long long)done);
}

static int swallow(void *user, const void *bytes, size_t length_bytes) {
    struct bench *bench = user;
    (void)bytes;
    bench->bytes_written += length_bytes;
    return 0;
}

static void snapshot(struct bench *bench) {
    struct runtime_facts facts;
    runtime_facts(bench->runtime, &facts);
    double start = now_ns();
    (void)runtime_state_hash(bench->runtime);
    printf("state hash, %llu pages in use %7.2f ms\n", (unsigned long long)facts.pages_touched,
           (now_ns() - start) / 1e6);
    start = now_ns();
    int error = runtime_snapshot_begin(bench->runtime);
    printf("snapshot begin            %7.3f ms\n", (now_ns() - start) / 1e6);
    struct runtime_snapshot_info info;
    double longest = 0, total = 0;
    for (error = error == 0 ? 1 : error; error > 0;) {
        start = now_ns();
        error = runtime_snapshot_step(bench->runtime, 64, swallow, bench, &info);
        double took = now_ns() - start;
        total += took;
        longest = took > longest ? took : longest;
    }
    if (error < 0)
        die("snapshot", error);
    printf("snapshot steps of 64 pages  longest %.3f ms, all %.2f ms, %.1f MiB\n", longest / 1e6,
           total / 1e6, (double)bench->bytes_written / (1 << 20));
}

int main(int argument_count, char **arguments) {
    uint64_t accounts = argument_count > 1 ? strtoull(arguments[1], NULL, 10) : 100000;
    uint64_t transfer_count = argument_count > 2 ? strtoull(arguments[2], NULL, 10) : 2000000;
    struct bench *bench = calloc(1, sizeof *bench);
    struct runtime_config config;
    if (bench == NULL || accounts == 0)
        die("arguments", 0);
    runtime_config_defaults(&config);
    config.applications = applications_list(&config.application_count);
    int error = runtime_open(&config, &bench->runtime);
    if (error != 0)
        die("open", error);
    fill(bench, accounts);
    transfers(bench, accounts, transfer_count, EPOCH_BODIES);
    transfers(bench, accounts, transfer_count / 10, 16);
    transfers(bench, accounts, transfer_count / 100, 1);
    snapshot(bench);
    runtime_close(bench->runtime);
    free(bench);
    return 0;
}
