#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "dump_fixture.h"
#include "journal_log.h"
#include "maroon/error.h"

#define BODIES JOURNAL_LOG_BODIES

const struct wire_digest_key journal_log_digest_key = {{1, 2, 3}};
const struct wire_hash journal_log_genesis = {{9}};

void journal_log_open(struct journal_log *log, const char *where) {
    char text[JOURNAL_TEXT_BYTES];
    struct journal_config config = {.directory = where,
                                    .identity = log->identity,
                                    .create = 1,
                                    .segment_bytes = JOURNAL_LOG_SEGMENT_BYTES,
                                    .writer = JOURNAL_WRITER_THREAD};
    if (journal_open(&config, NULL, NULL, &log->journal, text))
        fail_msg("%s", text);
}

static void journal_log_put(struct journal_log *log, enum journal_kind kind, const void *a,
                            uint32_t a_bytes, const void *b, uint32_t b_bytes) {
    const struct journal_piece pieces[2] = {{a, a_bytes}, {b, b_bytes}};
    while (journal_append(log->journal, kind, journal_next(log->journal), pieces, 1,
                          dump_fixture_now_ns()) == MRN_ERR_FULL) {
        journal_poll(log->journal, dump_fixture_now_ns());
        usleep(100);
    }
    journal_poll(log->journal, dump_fixture_now_ns());
}

void journal_log_settle(struct journal_log *log) {
    while (journal_stable(log->journal) < journal_next(log->journal)) {
        journal_poll(log->journal, dump_fixture_now_ns());
        usleep(100);
    }
}

uint32_t journal_log_make_body(uint64_t id, uint32_t seed, uint8_t *bytes) {
    struct wire_body_header header = {.service = seed, .method = (uint32_t)id};
    uint32_t length = (uint32_t)(sizeof header + (id * 37 + seed) % 900);
    memset(bytes, (int)(id + seed), length);
    memcpy(bytes, &header, sizeof header);
    return length;
}

struct wire_digest journal_log_body(struct journal_log *log, uint64_t id, uint32_t seed) {
    uint8_t bytes[WIRE_BODY_MAX_BYTES];
    uint32_t length = journal_log_make_body(id, seed, bytes);
    journal_log_put(log, JOURNAL_BODY, &id, sizeof id, bytes, length);
    return wire_hash_body(&journal_log_digest_key, id, bytes, length);
}

/* Epoch `seq` after `previous`; `late`: its bodies come after it, one of them twice. */
void journal_log_epoch(struct journal_log *log, uint64_t seq, const struct wire_hash *previous,
                       uint64_t term, bool late) {
    struct {
        uint64_t committed;
        struct wire_epoch_head head;
        struct wire_interval v[2];
    } __attribute__((packed)) record = {.committed = log->committed};
    record.head = (struct wire_epoch_head){
        .seq = seq, .term = term, .configuration_id = 5, .logical_time_us = seq * 100};
    record.head.interval_count = 2;
    memcpy(record.head.previous_hash, previous, sizeof *previous);
    struct wire_digest sum = {0, 0};
    uint8_t bytes[WIRE_BODY_MAX_BYTES];
    for (int i = 0; i < 2; i++) {
        record.v[i] =
            (struct wire_interval){log->next[i], (uint16_t)(1 + (seq + (uint64_t)i) % BODIES)};
        for (uint32_t n = 0; n < record.v[i].count; n++) {
            uint32_t length = journal_log_make_body(log->next[i] + n, (uint32_t)term, bytes);
            sum = wire_digest_add(
                sum, wire_hash_body(&journal_log_digest_key, log->next[i] + n, bytes, length));
            if (!late)
                journal_log_body(log, log->next[i] + n, (uint32_t)term);
        }
    }
    record.head.digest_low = sum.low;
    record.head.digest_high = sum.high;
    uint32_t length = (uint32_t)sizeof record - 8;
    journal_log_put(log, JOURNAL_EPOCH, &record, 8, &record.head, length);
    for (int i = 0; late && i < 2; i++)
        for (uint32_t n = 0; n < record.v[i].count; n++) {
            if (n == 0)
                journal_log_body(log, log->next[i], 77); /* another one, that the digest refuses */
            journal_log_body(log, log->next[i] + n, (uint32_t)term);
        }
    log->seq = seq;
    log->hash = log->hashes[seq] = wire_hash_blake2b(&record.head, length);
}

void journal_log_advance(struct journal_log *log) {
    for (int i = 0; i < 2; i++)
        log->next[i] += 1 + (log->seq + (uint64_t)i) % BODIES;
}

/* Epochs up to `to`: some are proposed by a leader that falls, and replaced; what is committed is
 * known a few epochs later. */
void journal_log_fill(struct journal_log *log, uint64_t to) {
    while (log->seq < to) {
        uint64_t seq = log->seq + 1;
        struct wire_hash previous = log->hash;
        if (seq % 10 == 3) {
            journal_log_epoch(log, seq, &previous, 50, false);
            journal_log_epoch(log, seq + 1, &log->hash, 50, true);
        }
        journal_log_epoch(log, seq, &previous, 51, seq % 4 == 1);
        journal_log_advance(log);
        log->committed = seq > 3 ? seq - 3 : 0;
    }
    journal_log_settle(log);
}

void journal_log_new(struct journal_log *log, const char *where, uint64_t begin_seq) {
    memset(log, 0, sizeof *log);
    log->identity = (struct journal_identity){.incarnation = 4711, .configuration_id = 5};
    log->seq = begin_seq;
    log->hash = log->hashes[begin_seq] = journal_log_genesis;
    log->next[0] = UINT64_C(1) << 30;
    log->next[1] = UINT64_C(5) << 30;
    journal_log_open(log, where);
}
