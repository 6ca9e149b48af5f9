#include "support.h"

/* ---- an application that does what it is told, to break rules ---- */

enum { PROBE_SMALL = 0, PROBE_BYTES = 1 };

static const struct mrn_table_spec PROBE_TABLES[] = {
    {.name = "small", .key_bytes = 8, .value_bytes = 16, .entries_max = 8},
    {.name = "bytes", .key_bytes = 21, .value_bytes = 900, .entries_max = 4000},
};

/* The payload's first byte says what to do. Echo's messages serve as request and response types. */
static enum mrn_code probe(struct mrn_context *context, const void *request, size_t request_bytes) {
    const uint8_t *bytes = request;
    uint8_t key[32] = {0};
    if (request_bytes == 0)
        return mrn_respond_bytes(context, NULL, 0);
    if (bytes[0] == 'r') { /* facts and random numbers */
        uint64_t facts[4] = {mrn_transaction_id(context), mrn_logical_time_us(context),
                             mrn_random(context), mrn_random(context)};
        return mrn_respond_bytes(context, facts, sizeof facts);
    }
    if (bytes[0] == 'f') { /* insert, change, erase, then refuse */
        for (uint8_t i = 0; i < 200; i++) {
            key[20] = i;
            uint8_t *value = mrn_table_insert(context, PROBE_BYTES, key);
            assert_non_null(value);
            memset(value, i, 900);
        }
        for (uint8_t i = 0; i < 200; i += 3) {
            key[20] = i;
            assert_int_equal(mrn_table_erase(context, PROBE_BYTES, key), 1);
        }
        return mrn_fail(context, MRN_CODE_ABORTED, "told to refuse");
    }
    if (bytes[0] == 'F') /* the same, without a write */
        return mrn_fail(context, MRN_CODE_ABORTED, "told to refuse");
    if (bytes[0] == 'w') { /* write until it is too much, and claim success */
        for (uint32_t i = 0;; i++) {
            memcpy(key, &i, sizeof i);
            if (mrn_table_insert(context, PROBE_BYTES, key) == NULL)
                return mrn_respond_bytes(context, "done", 4);
        }
    }
    if (bytes[0] == 'i') /* insert: the key is the rest */
        return mrn_table_insert(context, PROBE_SMALL, bytes + 1) == NULL
                   ? MRN_CODE_OK
                   : mrn_respond_bytes(context, "in", 2);
    if (bytes[0] == 'a') { /* allocate too much */
        while (mrn_alloc(context, 1 << 16) != NULL)
            ;
        return mrn_respond_bytes(context, "done", 4);
    }
    if (bytes[0] == 'u') /* no code */
        return (enum mrn_code)99;
    uint32_t length_bytes = 0; /* 'b': a response of so many bytes */
    memcpy(&length_bytes, bytes + 1, sizeof length_bytes);
    uint8_t *long_response = calloc(1, length_bytes + 1);
    enum mrn_code code = mrn_respond_bytes(context, long_response, length_bytes);
    free(long_response);
    return code;
}

/* The descriptor's layout of echo, under another name. */
static const ProtobufCMethodDescriptor PROBE_METHOD_DESCRIPTORS[] = {
    {"Do", &echo__v1__echo_request__descriptor, &echo__v1__echo_response__descriptor}};
static const unsigned PROBE_INDICES[] = {0};
static const ProtobufCServiceDescriptor PROBE_DESCRIPTOR = {PROTOBUF_C__SERVICE_DESCRIPTOR_MAGIC,
                                                            "probe.Probe",
                                                            "Probe",
                                                            "Probe",
                                                            "probe",
                                                            1,
                                                            PROBE_METHOD_DESCRIPTORS,
                                                            PROBE_INDICES};
static const struct mrn_method PROBE_METHODS[] = {{"Do", probe}};
static const struct mrn_service PROBE_SERVICES[] = {{&PROBE_DESCRIPTOR, PROBE_METHODS, 1}};
const struct mrn_application probe_application = {.name = "probe",
                                                  .version = 1,
                                                  .services = PROBE_SERVICES,
                                                  .service_count = 1,
                                                  .tables = PROBE_TABLES,
                                                  .table_count = 2};

static const struct mrn_application *const APPLICATIONS[] = {&bank_application, &echo_application,
                                                             &probe_application};

struct runtime_config small_config(void) {
    struct runtime_config config;
    runtime_config_defaults(&config);
    config.state_bytes = 16 << 20;
    config.ranges_max = 16;
    config.retired_max = 1000;
    config.configuration_id = 77;
    config.undo_bytes = 1 << 20;
    memset(config.genesis_hash.bytes, 7, sizeof config.genesis_hash.bytes);
    config.applications = APPLICATIONS;
    config.application_count = 3;
    return config;
}

/* ---- feed ---- */

struct feed *feed_new(const struct runtime_config *config) {
    struct feed *feed = calloc(1, sizeof *feed);
    assert_non_null(feed);
    assert_int_equal(runtime_open(config, &feed->runtime), 0);
    feed->time_us = 1000;
    return feed;
}

static void feed_forget(struct feed *feed) {
    for (uint32_t i = 0; i < feed->result_count; i++)
        free(feed->results[i].bytes);
    feed->result_count = 0;
}

void feed_free(struct feed *feed) {
    for (uint32_t i = 0; i < feed->body_count; i++)
        free((void *)(uintptr_t)feed->bodies[i].bytes);
    feed_forget(feed);
    runtime_close(feed->runtime);
    free(feed);
}

static void feed_control(struct feed *feed, uint8_t kind, uint64_t range, uint64_t value) {
    assert_true(feed->control_count < WIRE_EPOCH_CONTROLS_MAX);
    feed->controls[feed->control_count++] = (struct wire_control){kind, range, value};
}
void feed_open(struct feed *feed, uint64_t range, uint64_t owner) {
    feed_control(feed, WIRE_CONTROL_OPEN, range, owner);
}
void feed_seal(struct feed *feed, uint64_t range, uint64_t end) {
    feed_control(feed, WIRE_CONTROL_SEAL, range, end);
}

void feed_body(struct feed *feed, const char *service, const char *method, uint16_t parts_following,
               const void *payload, size_t payload_bytes) {
    static const uint8_t none[16];
    bool keyed = memcmp(feed->key, none, 16) != 0;
    struct wire_body_header header = {.service = wire_name_id(service, strlen(service)),
                                      .method = wire_name_id(method, strlen(method)),
                                      .parts_following = parts_following,
                                      .flags = keyed ? WIRE_BODY_EXTENDED : 0,
                                      .low_water = feed->low_water};
    size_t at = sizeof header + (keyed ? sizeof(struct wire_body_extension) : 0);
    uint8_t *bytes = malloc(at + payload_bytes);
    assert_non_null(bytes);
    memcpy(bytes, &header, sizeof header);
    if (keyed) {
        memcpy(bytes + sizeof header, feed->key, 16);
        memcpy(bytes + sizeof header + 16, feed->request_hash, 16);
        memset(feed->key, 0, 16);
    }
    if (payload_bytes > 0)
        memcpy(bytes + at, payload, payload_bytes);
    assert_true(feed->body_count < FEED_BODIES_MAX);
    feed->bodies[feed->body_count++] =
        (struct runtime_body){feed->next_id++, bytes, (uint32_t)(at + payload_bytes)};
}

uint64_t feed_call(struct feed *feed, const char *service, const char *method, const void *payload,
                   size_t payload_bytes) {
    static const uint8_t none[16];
    uint64_t id = feed->next_id;
    size_t piece = WIRE_BODY_MAX_BYTES - sizeof(struct wire_body_header);
    size_t first = piece;
    if (memcmp(feed->key, none, 16) != 0)
        first -= sizeof(struct wire_body_extension);
    if (first > payload_bytes)
        first = payload_bytes;
    size_t following = (payload_bytes - first + piece - 1) / piece;
    feed_body(feed, service, method, (uint16_t)following, payload, first);
    for (size_t at = first; following-- > 0; at += piece) {
        size_t left = payload_bytes - at;
        feed_body(feed, service, method, (uint16_t)following, (const uint8_t *)payload + at,
                  left < piece ? left : piece);
    }
    return id;
}

uint64_t feed_message(struct feed *feed, const char *service, const char *method,
                      const ProtobufCMessage *message) {
    size_t length_bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(length_bytes + 1);
    assert_non_null(bytes);
    protobuf_c_message_pack(message, bytes);
    uint64_t id = feed_call(feed, service, method, bytes, length_bytes);
    free(bytes);
    return id;
}

uint64_t feed_deposit(struct feed *feed, uint64_t account, uint64_t amount) {
    Bank__V1__DepositRequest request = BANK__V1__DEPOSIT_REQUEST__INIT;
    request.account = account;
    request.amount = amount;
    return feed_message(feed, "bank.v1.Bank", "Deposit", &request.base);
}
uint64_t feed_withdraw(struct feed *feed, uint64_t account, uint64_t amount) {
    Bank__V1__WithdrawRequest request = BANK__V1__WITHDRAW_REQUEST__INIT;
    request.account = account;
    request.amount = amount;
    return feed_message(feed, "bank.v1.Bank", "Withdraw", &request.base);
}
uint64_t feed_transfer(struct feed *feed, uint64_t from, uint64_t to, uint64_t amount) {
    Bank__V1__TransferRequest request = BANK__V1__TRANSFER_REQUEST__INIT;
    request.from = from;
    request.to = to;
    request.amount = amount;
    return feed_message(feed, "bank.v1.Bank", "Transfer", &request.base);
}
uint64_t feed_balance(struct feed *feed, uint64_t account) {
    Bank__V1__BalanceRequest request = BANK__V1__BALANCE_REQUEST__INIT;
    request.account = account;
    return feed_message(feed, "bank.v1.Bank", "Balance", &request.base);
}
uint64_t feed_total(struct feed *feed) {
    Bank__V1__TotalRequest request = BANK__V1__TOTAL_REQUEST__INIT;
    return feed_message(feed, "bank.v1.Bank", "Total", &request.base);
}

static void keep(void *user, const struct runtime_result *result) {
    struct feed *feed = user;
    struct kept *kept = &feed->results[feed->result_count++];
    *kept = (struct kept){.id = result->id,
                          .epoch_seq = result->epoch_seq,
                          .code = result->code,
                          .length_bytes = result->length_bytes,
                          .bytes = malloc(result->length_bytes + 1)};
    assert_non_null(kept->bytes);
    memcpy(kept->bytes, result->bytes, result->length_bytes);
}

int feed_try(struct feed *feed) {
    feed_forget(feed);
    feed->seq++;
    feed->time_us++;
    struct runtime_epoch epoch = {.seq = feed->seq,
                                  .term = 1,
                                  .logical_time_us = feed->time_us,
                                  .hash = wire_hash_blake2b(&feed->seq, sizeof feed->seq),
                                  .controls = feed->controls,
                                  .control_count = feed->control_count,
                                  .bodies = feed->bodies,
                                  .body_count = feed->body_count};
    int error = runtime_execute_epoch(feed->runtime, &epoch, keep, feed);
    for (uint32_t i = 0; i < feed->body_count; i++)
        free((void *)(uintptr_t)feed->bodies[i].bytes);
    feed->body_count = feed->control_count = 0;
    return error;
}

void feed_run(struct feed *feed) {
    assert_int_equal(feed_try(feed), 0);
    const char *broken = runtime_check(feed->runtime);
    if (broken != NULL)
        fail_msg("%s", broken);
}

const struct kept *feed_result(struct feed *feed, uint64_t id) {
    for (uint32_t i = 0; i < feed->result_count; i++)
        if (feed->results[i].id == id)
            return &feed->results[i];
    fail_msg("no result of %llx", (unsigned long long)id);
    return NULL;
}

uint32_t feed_code(struct feed *feed, uint32_t place) {
    assert_true(place < feed->result_count);
    return feed->results[place].code;
}

uint64_t feed_ask_balance(struct feed *feed, uint64_t account) {
    uint64_t id = feed_balance(feed, account);
    feed_run(feed);
    const struct kept *result = feed_result(feed, id);
    assert_int_equal(result->code, MRN_CODE_OK);
    Bank__V1__BalanceResponse *response =
        bank__v1__balance_response__unpack(NULL, result->length_bytes, result->bytes);
    assert_non_null(response);
    uint64_t balance = response->balance;
    bank__v1__balance_response__free_unpacked(response, NULL);
    return balance;
}

uint64_t feed_ask_total(struct feed *feed) {
    uint64_t id = feed_total(feed);
    feed_run(feed);
    const struct kept *result = feed_result(feed, id);
    assert_int_equal(result->code, MRN_CODE_OK);
    Bank__V1__TotalResponse *response =
        bank__v1__total_response__unpack(NULL, result->length_bytes, result->bytes);
    assert_non_null(response);
    uint64_t total = response->total;
    bank__v1__total_response__free_unpacked(response, NULL);
    return total;
}

void assert_same_hash(struct wire_hash a, struct wire_hash b) {
    assert_memory_equal(&a, &b, sizeof a);
}

struct wire_hash result_hash_of(struct runtime *runtime) {
    struct runtime_facts facts;
    runtime_facts(runtime, &facts);
    return facts.result_hash;
}
