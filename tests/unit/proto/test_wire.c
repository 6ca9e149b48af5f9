/* The codec: hashes against their references, damage is found, every truncation is refused, epochs
 * are checked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "proto/wire.h"

static uint32_t packet_make(uint8_t *bytes, uint64_t seed) {
    struct wire_writer writer;
    wire_writer_begin(&writer, bytes, WIRE_PACKET_MAX_BYTES, WIRE_STAGE_GOSSIP, 7);
    struct wire_ack ack = {3, 9, 8};
    memcpy(wire_writer_frame(&writer, WIRE_ACK, WIRE_ACK_AGAIN, sizeof ack), &ack, sizeof ack);
    struct wire_fetch fetch = {wire_tx_id(5, 10), 4};
    memcpy(wire_writer_frame(&writer, WIRE_FETCH, 0, sizeof fetch), &fetch, sizeof fetch);
    return wire_writer_end(&writer, 42, seed);
}

static void siphash_is_libsodiums(void **state) {
    (void)state;
    static uint8_t bytes[1500], buffer[1600];
    struct wire_digest_key key;
    for (uint32_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + 1);
    for (uint8_t i = 0; i < 16; i++)
        key.bytes[i] = i;
    for (uint64_t length = 0; length < sizeof bytes; length++) {
        uint64_t id = 0x123456789abc + length;
        uint8_t expected[16];
        memcpy(buffer, &id, 8);
        memcpy(buffer + 8, &length, 8);
        memcpy(buffer + 16, bytes, length);
        crypto_shorthash_siphashx24(expected, buffer, length + 16, key.bytes);
        struct wire_digest digest = wire_hash_body(&key, id, bytes, length);
        assert_memory_equal(expected, &digest, 16);
    }
}

static void digests_add_modulo_2_128(void **state) {
    (void)state;
    struct wire_digest a = {UINT64_MAX, UINT64_MAX}, b = {1, 0};
    struct wire_digest sum = wire_digest_add(a, b);
    assert_true(sum.low == 0 && sum.high == 0);
    assert_true(wire_digest_equal(wire_digest_subtract(sum, b), a));
}

static void packets_come_back(void **state) {
    (void)state;
    uint8_t bytes[WIRE_PACKET_MAX_BYTES];
    uint32_t length = packet_make(bytes, 77);
    struct wire_packet_header header;
    struct wire_cursor cursor;
    struct wire_frame frame;
    enum wire_drop drop;
    assert_int_equal(wire_packet_open(bytes, length, 77, &header, &cursor), WIRE_DROP_NONE);
    assert_int_equal(header.packet_number, 42);
    assert_int_equal(wire_frame_next(&cursor, &frame, &drop), 1);
    assert_int_equal(frame.kind, WIRE_ACK);
    assert_int_equal(frame.flags, WIRE_ACK_AGAIN);
    assert_int_equal(wire_frame_next(&cursor, &frame, &drop), 1);
    assert_int_equal(((const struct wire_fetch *)(const void *)frame.payload)->count, 4);
    assert_int_equal(wire_frame_next(&cursor, &frame, &drop), 0);
    assert_int_equal(wire_packet_open(bytes, length, 78, &header, &cursor),
                     WIRE_DROP_CHECKSUM); /* another configuration */
    assert_int_equal(wire_packet_open(bytes, 23, 77, &header, &cursor), WIRE_DROP_SHORT);
}

/* One and two flipped bits anywhere in a packet: the lanes must not cancel each other. */
static void damage_is_found(void **state) {
    (void)state;
    uint8_t bytes[WIRE_PACKET_MAX_BYTES];
    uint32_t length = packet_make(bytes, 77), bits = length * 8;
    struct wire_packet_header header;
    struct wire_cursor cursor;
    for (uint32_t a = 0; a < bits; a++) {
        bytes[a / 8] ^= (uint8_t)(1u << a % 8);
        assert_int_not_equal(wire_packet_open(bytes, length, 77, &header, &cursor), WIRE_DROP_NONE);
        for (uint32_t b = a + 1; b < bits; b++) {
            bytes[b / 8] ^= (uint8_t)(1u << b % 8);
            assert_int_not_equal(wire_packet_open(bytes, length, 77, &header, &cursor),
                                 WIRE_DROP_NONE);
            bytes[b / 8] ^= (uint8_t)(1u << b % 8);
        }
        bytes[a / 8] ^= (uint8_t)(1u << a % 8);
    }
}

/* No kind accepts a payload shorter than its struct; kinds without a tail accept no longer one. */
static void truncated_frames_are_refused(void **state) {
    (void)state;
    static const struct {
        uint8_t kind;
        uint16_t bytes;
    } exact[] = {{WIRE_HELLO, sizeof(struct wire_hello)},
                 {WIRE_FETCH, sizeof(struct wire_fetch)},
                 {WIRE_GONE, sizeof(struct wire_gone)},
                 {WIRE_PREPARE, sizeof(struct wire_prepare)},
                 {WIRE_PROMISE, sizeof(struct wire_promise)},
                 {WIRE_ACK, sizeof(struct wire_ack)},
                 {WIRE_HEARTBEAT, sizeof(struct wire_heartbeat)},
                 {WIRE_RECOVERED, sizeof(struct wire_recovered)},
                 {WIRE_PING, sizeof(struct wire_ping)},
                 {WIRE_PONG, sizeof(struct wire_pong)},
                 {WIRE_RANGE_GRANT, sizeof(struct wire_range_grant)},
                 {WIRE_TX_QUERY, sizeof(struct wire_tx_query)}};
    uint8_t bytes[512] = {0};
    for (uint32_t i = 0; i < sizeof exact / sizeof exact[0]; i++)
        for (uint16_t length = 0; length < exact[i].bytes + 2; length++) {
            struct wire_frame_header header = {exact[i].kind, 0, length};
            struct wire_frame frame;
            enum wire_drop drop = WIRE_DROP_NONE;
            memcpy(bytes, &header, sizeof header);
            struct wire_cursor cursor = {bytes, bytes + sizeof header + length};
            if (length != exact[i].bytes) {
                assert_int_equal(wire_frame_next(&cursor, &frame, &drop), -1);
                assert_int_equal(drop, WIRE_DROP_FRAME_LENGTH);
            }
        }
    struct wire_frame_header longer = {WIRE_ACK, 0, 400}; /* reaches over the packet's end */
    struct wire_frame frame;
    enum wire_drop drop = WIRE_DROP_NONE;
    memcpy(bytes, &longer, sizeof longer);
    struct wire_cursor cursor = {bytes, bytes + 100};
    assert_int_equal(wire_frame_next(&cursor, &frame, &drop), -1);
    assert_int_equal(wire_frame_next(&cursor, &frame, &drop), 0);
    struct wire_frame_header unknown = {200, 0, 4};
    memcpy(bytes, &unknown, sizeof unknown);
    cursor = (struct wire_cursor){bytes, bytes + 8};
    assert_int_equal(wire_frame_next(&cursor, &frame, &drop), -1);
    assert_int_equal(drop, WIRE_DROP_FRAME_KIND);
}

static enum wire_drop epoch(const struct wire_interval *intervals, uint8_t count) {
    uint8_t bytes[WIRE_EPOCH_MAX_BYTES] = {0};
    struct wire_epoch_head head = {.seq = 1, .term = 1, .interval_count = count};
    memcpy(bytes, &head, sizeof head);
    memcpy(bytes + sizeof head, intervals, count * sizeof intervals[0]);
    return wire_epoch_check(bytes, wire_epoch_bytes(0, count));
}

static void epochs_are_checked(void **state) {
    (void)state;
    struct wire_interval good[2] = {{wire_tx_id(1, 0), 3}, {wire_tx_id(2, 7), 1}};
    assert_int_equal(epoch(good, 2), WIRE_DROP_NONE);
    struct wire_interval unsorted[2] = {good[1], good[0]};
    assert_int_equal(epoch(unsorted, 2), WIRE_DROP_FRAME_VALUE);
    struct wire_interval twice[2] = {{wire_tx_id(1, 0), 3}, {wire_tx_id(1, 3), 1}};
    assert_int_equal(epoch(twice, 2), WIRE_DROP_FRAME_VALUE);
    struct wire_interval empty[1] = {{wire_tx_id(1, 0), 0}};
    assert_int_equal(epoch(empty, 1), WIRE_DROP_FRAME_VALUE);
    struct wire_interval last[1] = {{wire_tx_id(1, WIRE_RANGE_OFFSETS - 1), 1}};
    assert_int_equal(epoch(last, 1), WIRE_DROP_NONE);
    last[0].count = 2;
    assert_int_equal(epoch(last, 1), WIRE_DROP_FRAME_VALUE);
    struct wire_interval many[2] = {{wire_tx_id(1, 0), WIRE_EPOCH_BODIES_MAX},
                                    {wire_tx_id(2, 0), 1}};
    assert_int_equal(epoch(many, 2), WIRE_DROP_FRAME_VALUE);
    uint8_t bytes[WIRE_EPOCH_MAX_BYTES] = {0};
    for (uint32_t length = 0; length < sizeof(struct wire_epoch_head); length++)
        assert_int_equal(wire_epoch_check(bytes, length), WIRE_DROP_FRAME_LENGTH);
}

static void bodies_are_checked(void **state) {
    (void)state;
    uint8_t bytes[WIRE_BODY_MAX_BYTES + 1] = {0};
    assert_int_equal(wire_body_check(bytes, 15), WIRE_DROP_FRAME_LENGTH);
    assert_int_equal(wire_body_check(bytes, 16), WIRE_DROP_NONE);
    assert_int_equal(wire_body_check(bytes, WIRE_BODY_MAX_BYTES + 1), WIRE_DROP_FRAME_LENGTH);
    struct wire_body_header header = {.flags = WIRE_BODY_EXTENDED};
    memcpy(bytes, &header, sizeof header);
    assert_int_equal(wire_body_check(bytes, 47), WIRE_DROP_FRAME_LENGTH);
    assert_int_equal(wire_body_check(bytes, 48), WIRE_DROP_NONE);
}

/* Ours is chosen for its speed; libsodium's says what it must give. Lengths around each block's
 * end, and every way to cut a text in two. */
static void blake2b_as_libsodium(void **state) {
    (void)state;
    uint8_t bytes[700];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 131 + i / 256 + 7);
    for (size_t length = 0; length <= sizeof bytes; length++) {
        struct wire_hash expected, one = wire_hash_blake2b(bytes, length);
        assert_int_equal(0, crypto_generichash_blake2b(expected.bytes, sizeof expected.bytes, bytes,
                                                       length, NULL, 0));
        assert_memory_equal(expected.bytes, one.bytes, sizeof expected.bytes);
        for (size_t first = 0; first <= length; first += length < 300 ? 1 : 61) {
            struct wire_hash two =
                wire_hash_blake2b_pair(bytes, first, bytes + first, length - first);
            assert_memory_equal(expected.bytes, two.bytes, sizeof expected.bytes);
        }
    }
}

/* Several at once give what each gives alone: every count around a vector's width, whole blocks and
 * not, inputs that overlap. */
static void blake2b_of_many(void **state) {
    (void)state;
    static const size_t lengths[] = {0, 1, 127, 128, 129, 256, 2048, 4095, 4096};
    enum { MOST = 19 };
    uint8_t bytes[4096 + 8 * MOST];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 197 + i / 256 * 3 + 5);
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
        for (uint32_t count = 0; count <= MOST; count++) {
            const void *inputs[MOST];
            struct wire_hash many[MOST + 1];
            memset(many, 0xee, sizeof many);
            for (uint32_t i = 0; i < count; i++)
                inputs[i] = bytes + (size_t)7 * (MOST - i);
            wire_hash_blake2b_many(inputs, lengths[l], count, many);
            for (uint32_t i = 0; i < count; i++) {
                struct wire_hash one = wire_hash_blake2b(inputs[i], lengths[l]);
                assert_memory_equal(one.bytes, many[i].bytes, sizeof one.bytes);
            }
            assert_int_equal(many[count].bytes[0], 0xee);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blake2b_of_many),
        cmocka_unit_test(blake2b_as_libsodium),
        cmocka_unit_test(siphash_is_libsodiums),
        cmocka_unit_test(digests_add_modulo_2_128),
        cmocka_unit_test(packets_come_back),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(truncated_frames_are_refused),
        cmocka_unit_test(epochs_are_checked),
        cmocka_unit_test(bodies_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
