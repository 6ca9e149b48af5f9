/* Shared by the runtime's tests: builds epochs of bodies, executes them, keeps what came back. */
#ifndef MAROON_TESTS_RUNTIME_SUPPORT_H
#define MAROON_TESTS_RUNTIME_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bank/v1/bank.pb-c.h"
#include "echo/v1/echo.pb-c.h"
#include "runtime/applications/applications.h"
#include "runtime/runtime.h"

#define FEED_BODIES_MAX 4096

struct kept {
    uint64_t id, epoch_seq;
    uint32_t code, length_bytes;
    uint8_t *bytes;
};

/* An epoch in the making, and what the last one gave. */
struct feed {
    struct runtime *runtime;
    uint64_t seq, time_us;
    struct wire_control controls[WIRE_EPOCH_CONTROLS_MAX];
    uint32_t control_count;
    struct runtime_body bodies[FEED_BODIES_MAX];
    uint32_t body_count;
    struct kept results[FEED_BODIES_MAX];
    uint32_t result_count;
    uint8_t key[16], request_hash[16]; /* for the next body; zero: none */
    uint32_t low_water;                /* for the next bodies */
    uint64_t next_id;                  /* of the next body */
};

/* A small config with bank, echo and the tests' own application. */
struct runtime_config small_config(void);
extern const struct mrn_application probe_application;

struct feed *feed_new(const struct runtime_config *config);
void feed_free(struct feed *feed);
void feed_open(struct feed *feed, uint64_t range, uint64_t owner);
void feed_seal(struct feed *feed, uint64_t range, uint64_t end);

/* Adds one body under next_id, raw. */
void feed_body(struct feed *feed, const char *service, const char *method, uint16_t parts_following,
               const void *payload, size_t payload_bytes);
/* Adds a transaction, in parts of at most WIRE_BODY_MAX_BYTES. Returns its id. */
uint64_t feed_call(struct feed *feed, const char *service, const char *method, const void *payload,
                   size_t payload_bytes);
uint64_t feed_message(struct feed *feed, const char *service, const char *method,
                      const ProtobufCMessage *message);
uint64_t feed_deposit(struct feed *feed, uint64_t account, uint64_t amount);
uint64_t feed_withdraw(struct feed *feed, uint64_t account, uint64_t amount);
uint64_t feed_transfer(struct feed *feed, uint64_t from, uint64_t to, uint64_t amount);
uint64_t feed_balance(struct feed *feed, uint64_t account);
uint64_t feed_total(struct feed *feed);

/* Executes what was added as the next epoch and empties it. Returns what the runtime returned. */
int feed_try(struct feed *feed);
/* The same, and it must succeed, and the invariants must hold. */
void feed_run(struct feed *feed);

/* The last epoch's result under the id; fails the test when there is none. */
const struct kept *feed_result(struct feed *feed, uint64_t id);
/* Code of the last epoch's result `place`. */
uint32_t feed_code(struct feed *feed, uint32_t place);
/* Executes one balance, or total, and gives the number. */
uint64_t feed_ask_balance(struct feed *feed, uint64_t account);
uint64_t feed_ask_total(struct feed *feed);

void assert_same_hash(struct wire_hash a, struct wire_hash b);
struct wire_hash result_hash_of(struct runtime *runtime);

#endif
