/* The short way through protobuf gives what protobuf-c gives, on plain and on odd bytes. */
#include "support.h"

#include "runtime/flat.h"

static const ProtobufCMessageDescriptor *const TRANSFER = &bank__v1__transfer_request__descriptor;

/* Returns whether the short way took it. */
static bool decode_both(const uint8_t *bytes, size_t length_bytes) {
    Bank__V1__TransferRequest message;
    TRANSFER->message_init(&message.base);
    bool flat = runtime_flat_decode(TRANSFER, &message, bytes, length_bytes);
    Bank__V1__TransferRequest *other =
        bank__v1__transfer_request__unpack(NULL, length_bytes, bytes);
    if (flat) {
        assert_non_null(other);
        assert_int_equal(other->base.n_unknown_fields, 0);
        assert_true(message.from == other->from && message.to == other->to &&
                    message.amount == other->amount);
        uint8_t a[64], b[64];
        size_t length_a = runtime_flat_encode(&message.base, a);
        size_t length_b = protobuf_c_message_pack(&other->base, b);
        assert_int_equal(length_a, length_b);
        assert_memory_equal(a, b, length_a);
    }
    if (other != NULL)
        bank__v1__transfer_request__free_unpacked(other, NULL);
    return flat;
}

static void test_same_as_protobuf_c(void **state) {
    (void)state;
    uint32_t taken = 0;
    srand(4);
    for (uint32_t i = 0; i < 200000; i++) {
        uint8_t bytes[24];
        size_t length_bytes = (size_t)rand() % (sizeof bytes + 1);
        for (size_t b = 0; b < length_bytes; b++)
            bytes[b] = (uint8_t)(rand() % 3 == 0   ? 8 * (1 + rand() % 4)
                                 : rand() % 2 == 0 ? rand() % 128
                                                   : rand());
        taken += decode_both(bytes, length_bytes);
    }
    assert_true(taken > 5000);
}

static void test_edges(void **state) {
    (void)state;
    const uint64_t values[] = {
        0,         1, 127, 128, 1 << 14, UINT32_MAX, (UINT64_C(1) << 63) - 1, UINT64_C(1) << 63,
        UINT64_MAX};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        Bank__V1__TransferRequest request = BANK__V1__TRANSFER_REQUEST__INIT;
        request.amount = request.from = values[i];
        uint8_t bytes[64], flat[64];
        size_t length_bytes = protobuf_c_message_pack(&request.base, bytes);
        assert_int_equal(runtime_flat_encode(&request.base, flat), length_bytes);
        assert_memory_equal(bytes, flat, length_bytes);
        assert_int_equal(decode_both(bytes, length_bytes), values[i] < UINT64_C(1) << 63);
    }
    assert_true(decode_both((const uint8_t *)"", 0));
    assert_false(decode_both((const uint8_t *)"\x20\x01", 2)); /* a field it does not know */
    assert_false(decode_both((const uint8_t *)"\x0d\x01\x01\x01\x01", 5)); /* another wire type */
    assert_true(decode_both((const uint8_t *)"\x08\x01\x08\x02", 4));      /* twice: the last */
    assert_true(runtime_flat_descriptor(&bank__v1__total_request__descriptor));
    assert_false(runtime_flat_descriptor(&echo__v1__echo_request__descriptor));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_as_protobuf_c),
                                       cmocka_unit_test(test_edges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
