/* JSON to protobuf and back: every type, 64 bits in both spellings, unicode, hostile texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/transcode/transcode_flat.h"
#include "tests/unit/gateway/shapes.pb-c.h"
#include <maroon/error.h>

static const ProtobufCMessageDescriptor *const type = &shapes__v1__shape__descriptor;
static char why[TRANSCODE_TEXT_BYTES];

static Shapes__V1__Shape *take(const char *json) {
    uint8_t *bytes;
    size_t length;
    int error = gateway_transcode_in(type, json, strlen(json), &bytes, &length, why);
    if (error)
        fail_msg("%s: %s", json, why);
    Shapes__V1__Shape *shape = shapes__v1__shape__unpack(NULL, length, bytes);
    assert_non_null(shape);
    free(bytes);
    return shape;
}

static void refuse(const char *json) {
    uint8_t *bytes = NULL;
    size_t length;
    *why = 0;
    if (gateway_transcode_in(type, json, strlen(json), &bytes, &length, why) != MRN_ERR_MALFORMED)
        fail_msg("taken: %s", json);
    assert_null(bytes);
    assert_true(*why && strlen(why) < TRANSCODE_TEXT_BYTES);
}

static char *give(const Shapes__V1__Shape *shape) {
    size_t length = shapes__v1__shape__get_packed_size(shape);
    uint8_t *bytes = malloc(length + 1);
    shapes__v1__shape__pack(shape, bytes);
    char *json;
    int error = gateway_transcode_out(type, bytes, length, &json);
    free(bytes);
    return error ? NULL : json;
}

static void there_and_back(void **state) {
    (void)state;
    static const char json[] =
        "{\"bigCount\":\"18446744073709551615\",\"signedValue\":\"-9223372036854775808\","
        "\"small\":4294967295,\"tiny\":-2147483648,\"flag\":true,\"colour\":\"COLOUR_RED\","
        "\"real\":0.5,\"text\":\"\xe2\x82\xac\xf0\x9f\x99\x82 \\\"\\\\\\n\",\"data\":\"AP/+\","
        "\"numbers\":[\"1\",\"2\"],\"texts\":[\"a\",\"\"],\"right\":\"r\"}";
    Shapes__V1__Shape *shape = take(json);
    char *again = give(shape);
    assert_string_equal(again, json);
    free(again);
    shapes__v1__shape__free_unpacked(shape, NULL);
}

static void whole_numbers_have_64_bits_quoted_or_not(void **state) {
    (void)state;
    static const char *const spellings[] = {
        "{\"bigCount\":18446744073709551615,\"signedValue\":-9223372036854775808}",
        "{\"bigCount\":\"18446744073709551615\",\"signedValue\":\"-9223372036854775808\"}",
        "{\"text\":\"\\\\\\\"18446744073709551615\", \"big_count\" : 18446744073709551615 ,"
        "\"signed_value\":-9223372036854775808}",
    };
    for (uint32_t i = 0; i < 3; i++) {
        Shapes__V1__Shape *shape = take(spellings[i]);
        assert_true(shape->big_count == UINT64_MAX && shape->signed_value == INT64_MIN);
        if (i == 2)
            assert_string_equal(shape->text, "\\\"18446744073709551615");
        shapes__v1__shape__free_unpacked(shape, NULL);
    }
    Shapes__V1__Shape *shape =
        take("{\"numbers\":[9223372036854775807,9223372036854775808,18446744073709551614,1]}");
    assert_int_equal(shape->n_numbers, 4);
    assert_true(shape->numbers[0] == INT64_MAX && shape->numbers[1] == 1ull << 63);
    assert_true(shape->numbers[2] == UINT64_MAX - 1 && shape->numbers[3] == 1);
    shapes__v1__shape__free_unpacked(shape, NULL);
    shape = take("{\"real\":123456789012345678901234567890}");
    assert_true(shape->real > 1.2e29 && shape->real < 1.3e29);
    shapes__v1__shape__free_unpacked(shape, NULL);
    refuse("{\"bigCount\":18446744073709551616}");
    refuse("{\"bigCount\":-1}");
    refuse("{\"bigCount\":\"-1\"}");
    refuse("{\"bigCount\":-9223372036854775808}");
    refuse("{\"signedValue\":9223372036854775808}");
    refuse("{\"signedValue\":\"\\t1\"}");
    refuse("{\"bigCount\":1.5}");
    refuse("{\"bigCount\":\" 1\"}");
    refuse("{\"bigCount\":\"1 \"}");
    refuse("{\"bigCount\":\"\"}");
    refuse("{\"small\":4294967296}");
    refuse("{\"tiny\":2147483648}");
    refuse("{\"text\":12345678901234567890}"); /* a number is no string, however big */
    refuse("{\"data\":12345678901234567890}");
    refuse("{\"colour\":12345678901234567890}");
    refuse("{\"text\":\"\\ue000\",\"bigCount\":12345678901234567890}"); /* as the parser reads it */
    refuse("{12345678901234567890:1}");
}

static void strings_cannot_pass_for_numbers(void **state) {
    (void)state;
    Shapes__V1__Shape *shape = take("{\"text\":\"\\ue000x\"}");
    shapes__v1__shape__free_unpacked(shape, NULL);
}

static void names_nulls_enums_and_oneofs(void **state) {
    (void)state;
    Shapes__V1__Shape *shape =
        take("{\"big_count\":1,\"text\":null,\"colour\":1,\"left\":7,\"child\":{\"flag\":true}}");
    assert_true(shape->big_count == 1 && !*shape->text && shape->colour == 1);
    assert_true(shape->one_case == SHAPES__V1__SHAPE__ONE_LEFT && shape->left == 7);
    assert_true(shape->child->flag);
    shapes__v1__shape__free_unpacked(shape, NULL);
    shape = take("");
    char *json = give(shape);
    assert_non_null(strstr(json, "\"bigCount\":\"0\"")); /* zeros are printed */
    assert_null(strstr(json, "left"));
    assert_null(strstr(json, "child"));
    free(json);
    shapes__v1__shape__free_unpacked(shape, NULL);
    refuse("{\"colour\":\"COLOUR_BLUE\"}");
    refuse("{\"left\":1,\"right\":\"x\"}");
    refuse("{\"left\":1,\"left\":1}");
    refuse("{\"unknown\":1}");
    refuse("{\"flag\":1}");
    refuse("{\"child\":[]}");
    refuse("{\"numbers\":1}");
}

static void bytes_in_every_base64(void **state) {
    (void)state;
    static const char *const good[] = {"+/8=", "-_8=", "+/8", "-_8"};
    for (uint32_t i = 0; i < 4; i++) {
        char json[64];
        snprintf(json, sizeof json, "{\"data\":\"%s\"}", good[i]);
        Shapes__V1__Shape *shape = take(json);
        assert_int_equal(shape->data.len, 2);
        assert_memory_equal(shape->data.data, "\xfb\xff", 2);
        shapes__v1__shape__free_unpacked(shape, NULL);
    }
    refuse("{\"data\":\"+_8=\"}");
    refuse("{\"data\":\"a\"}");
    refuse("{\"data\":\"!!!!\"}");
    refuse("{\"data\":\"+/8 \"}");
    refuse("{\"data\":[1]}");
}

static void floats_that_json_lacks(void **state) {
    (void)state;
    static const char *const names[] = {"NaN", "Infinity", "-Infinity"};
    for (uint32_t i = 0; i < 3; i++) {
        char json[64], expected[64];
        snprintf(json, sizeof json, "{\"real\":\"%s\"}", names[i]);
        snprintf(expected, sizeof expected, "\"real\":\"%s\"", names[i]);
        Shapes__V1__Shape *shape = take(json);
        char *again = give(shape);
        assert_non_null(strstr(again, expected));
        free(again);
        shapes__v1__shape__free_unpacked(shape, NULL);
    }
    refuse("{\"real\":\"nan\"}");
    refuse("{\"real\":\"0x10\"}");
    refuse("{\"real\":1e999}");
    refuse("{\"real\":true}");
}

static void hostile_texts(void **state) {
    (void)state;
    static const char *const texts[] = {"[]",
                                        "1",
                                        "null",
                                        "\"x\"",
                                        "{",
                                        "{\"",
                                        "{\"a",
                                        "{\"bigCount\":",
                                        "{\"bigCount\":}",
                                        "{\"bigCount\":1}x",
                                        "{\"bigCount\":1,}",
                                        "{'bigCount':1}",
                                        "{\"text\":\"\xff\"}",
                                        "{\"text\":\"\\ud800\"}",
                                        "{\"text\":\"\\u0000\"}",
                                        "{\"text\":\"a\nb\"}",
                                        "\xef\xbb\xbf{}",
                                        "{\"numbers\":[1,",
                                        "{\"bigCount\":99999999999999999999999999",
                                        "99999999999999999999",
                                        "{\"text\":\"99999999999999999999\\",
                                        "{\"bigCount\":--18446744073709551615}",
                                        "{\"bigCount\":018446744073709551615}",
                                        "{\"bigCount\":+18446744073709551615}"};
    for (uint32_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        refuse(texts[i]);
    uint8_t *bytes;
    size_t length;
    assert_int_equal(gateway_transcode_in(type, "{}\0{}", 5, &bytes, &length, why),
                     MRN_ERR_MALFORMED);
    char *name = malloc(100000); /* an unknown field's name does not overrun the message */
    memset(name, 'n', 100000);
    memcpy(name, "{\"", 2);
    memcpy(name + 99990, "\":1}", 5);
    refuse(name);
    free(name);
}

static char *nested(uint32_t depth) {
    char *json = malloc(depth * 12 + 16), *at = json;
    for (uint32_t i = 1; i < depth; i++)
        at += snprintf(at, 16, "{\"child\":");
    at += snprintf(at, 16, "{}");
    memset(at, '}', depth - 1);
    at[depth - 1] = 0;
    return json;
}

static void depth_has_an_end(void **state) {
    (void)state;
    char *json = nested(32);
    Shapes__V1__Shape *shape = take(json);
    shapes__v1__shape__free_unpacked(shape, NULL);
    free(json);
    static const uint32_t depths[] = {33, 1000, 100000};
    for (uint32_t i = 0; i < 3; i++) {
        json = nested(depths[i]);
        refuse(json);
        free(json);
    }
    /* The same as protobuf: 300,000 messages in one another, each with an honest length. */
    size_t room = 3u << 20, at = room, length;
    uint8_t *bytes = malloc(room), *packed = NULL;
    for (uint32_t i = 0; i < 300000; i++) {
        uint8_t head[6] = {10 << 3 | 2};
        uint64_t inner = room - at;
        uint32_t n = 1;
        do {
            head[n] = (uint8_t)((inner & 127) | (inner > 127 ? 128 : 0));
            n++;
        } while ((inner >>= 7) != 0);
        at -= n;
        memcpy(bytes + at, head, n);
    }
    assert_int_equal(gateway_transcode_check(type, bytes + at, room - at, &packed, &length, why),
                     MRN_ERR_MALFORMED);
    assert_int_equal(gateway_transcode_out(type, bytes + at, room - at, &json), MRN_ERR_MALFORMED);
    free(bytes);
}

static void protobuf_is_made_canonical_or_refused(void **state) {
    (void)state;
    static const uint8_t twice[] = {3 << 3, 1, 3 << 3, 2, 1 << 3, 5}; /* the last one counts */
    static const uint8_t canonical[] = {1 << 3, 5, 3 << 3, 2};
    uint8_t *bytes;
    size_t length;
    assert_int_equal(gateway_transcode_check(type, twice, sizeof twice, &bytes, &length, why), 0);
    assert_int_equal(length, sizeof canonical);
    assert_memory_equal(bytes, canonical, length);
    free(bytes);
    static const uint8_t bad[] = {1 << 3, 0xff};
    assert_int_equal(gateway_transcode_check(type, bad, 2, &bytes, &length, why),
                     MRN_ERR_MALFORMED);
    static const uint8_t no_utf8[] = {8 << 3 | 2, 1, 0xff};
    char *json;
    assert_int_equal(gateway_transcode_out(type, no_utf8, 3, &json), MRN_ERR_MALFORMED);
}

/* Every cut and many changed bytes of a good text end in a refusal or a message, never elsewhere.
 */
static void mutations(void **state) {
    (void)state;
    static const char good[] = "{\"bigCount\":18446744073709551615,\"texts\":[\"\\u00e9\",\"b\"],"
                               "\"child\":{\"data\":\"AAAA\",\"real\":1e3},\"flag\":false}";
    char text[sizeof good];
    uint32_t x = 1;
    for (uint32_t round = 0; round < 200000; round++) {
        memcpy(text, good, sizeof good);
        x = x * 1664525 + 1013904223;
        size_t length = round < sizeof good ? round : sizeof good - 1;
        if (length == sizeof good - 1)
            text[(x >> 8) % length] = (char)(x >> 24);
        uint8_t *bytes;
        size_t packed;
        if (!gateway_transcode_in(type, text, length, &bytes, &packed, why)) {
            char *json;
            assert_int_equal(gateway_transcode_out(type, bytes, packed, &json), 0);
            free(json);
            free(bytes);
        }
    }
}

/* ---- the shorter way ---- */

static const ProtobufCMessageDescriptor *const sums = &shapes__v1__sums__descriptor;
static const ProtobufCMessageDescriptor *const sums_and_text =
    &shapes__v1__sums_and_text__descriptor;

/* Whether the text is done the shorter way. What comes of it, or why it is refused, is what the
 * other way says. */
static bool same_in(const char *json, size_t length) {
    char whys[2][TRANSCODE_TEXT_BYTES] = {"", ""};
    uint8_t *bytes[2] = {NULL, NULL};
    size_t lengths[2];
    int a = gateway_transcode_in(sums, json, length, &bytes[0], &lengths[0], whys[0]);
    int b = gateway_transcode_in(sums_and_text, json, length, &bytes[1], &lengths[1], whys[1]);
    if (a != b || (a && !strstr(whys[0], "Sums") && strcmp(whys[0], whys[1])))
        fail_msg("%.*s: %d %s, %d %s", (int)length, json, a, whys[0], b, whys[1]);
    if (!a) {
        assert_int_equal(lengths[0], lengths[1]);
        assert_memory_equal(bytes[0], bytes[1], lengths[0]);
    }
    free(bytes[0]);
    free(bytes[1]);
    bytes[0] = NULL;
    bool flat = gateway_flat_in(sums, json, length, &bytes[0], &lengths[0]);
    assert_true(flat ? a == 0 : bytes[0] == NULL);
    free(bytes[0]);
    return flat;
}

static void the_shorter_way_in_is_as_the_other(void **state) {
    (void)state;
    static const char *const flat[] = {
        "{}", " {\t} \r\n", "{\"firstSum\":\"0\"}",
        "{ \"first_sum\" : 999999999999999999 , \"aBC\":\"7\",\"second\":1 }",
        "{\"a_b_c\":\"100000000000000000\"}"};
    static const char *const other[] = {"",
                                        "{",
                                        "{\"",
                                        "{\"second",
                                        "{\"second\"",
                                        "{\"second\":",
                                        "{\"second\":\"",
                                        "{\"second\":\"1",
                                        "{\"second\":\"1\"",
                                        "{\"second\":1",
                                        "{\"second\":1,",
                                        "{\"second\":1,}",
                                        "{,}",
                                        "{}}",
                                        "{} x",
                                        "[]",
                                        "7",
                                        "{\"second\":\"\"}",
                                        "{\"second\":}",
                                        "{\"second\":01}",
                                        "{\"second\":\"01\"}",
                                        "{\"second\":-1}",
                                        "{\"second\":1.0}",
                                        "{\"second\":1e3}",
                                        "{\"second\":\"1 \"}",
                                        "{\"second\":\" 1\"}",
                                        "{\"second\":null}",
                                        "{\"second\":true}",
                                        "{\"second\":[1]}",
                                        "{\"second\":{}}",
                                        "{\"second\":1000000000000000000}",
                                        "{\"second\":18446744073709551615}",
                                        "{\"second\":\"18446744073709551615\"}",
                                        "{\"second\":\"18446744073709551616\"}",
                                        "{\"second\":1,\"second\":2}",
                                        "{\"firstSum\":1,\"first_sum\":2}",
                                        "{\"sec\\u006fnd\":1}",
                                        "{\"second\":\"\\u0031\"}",
                                        "{\"Second\":1}",
                                        "{\"aBc\":1}",
                                        "{\"firstSum\\\"\":1}",
                                        "{\"secondx\":1}",
                                        "{\"secon\":1}",
                                        "{\"third\":1}",
                                        "{'second':1}",
                                        "{\"second\" 1}",
                                        "{\"second\":1 \"aBC\":1}"};
    for (size_t i = 0; i < sizeof flat / sizeof flat[0]; i++)
        if (!same_in(flat[i], strlen(flat[i])))
            fail_msg("not the shorter way: %s", flat[i]);
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++)
        if (same_in(other[i], strlen(other[i])))
            fail_msg("the shorter way: %s", other[i]);
    assert_false(same_in("{}\0", 3));
    assert_false(same_in("{\"second\":1\0}", 13));
}

static void random_texts_are_taken_alike(void **state) {
    (void)state;
    static const char *const pieces[] = {"{",
                                         "}",
                                         "\"firstSum\"",
                                         "\"first_sum\"",
                                         "\"second\"",
                                         ":",
                                         ",",
                                         "\"aBC\"",
                                         "1",
                                         "\"20\"",
                                         "\"",
                                         " ",
                                         "0",
                                         "\n",
                                         "-",
                                         "\\",
                                         "18446744073709551615"};
    static const char *const names[] = {"firstSum", "first_sum", "second", "aBC", "a_b_c", "x"};
    uint32_t taken = 0;
    srand(11);
    for (uint32_t i = 0; i < 100000; i++) {
        char json[400] = "";
        size_t at = 0;
        if (i % 4 == 0) /* anything */
            for (int n = rand() % 12; n > 0; n--)
                at += (size_t)snprintf(json + at, sizeof json - at, "%s",
                                       pieces[(size_t)rand() % (sizeof pieces / sizeof *pieces)]);
        else { /* an object, one byte of it changed now and then */
            const char *between = "{";
            for (int n = rand() % 4; n >= 0; n--, between = ", ")
                at += (size_t)snprintf(json + at, sizeof json - at,
                                       rand() % 2 ? "%s\"%s\":%.*s" : "%s\"%s\": \"%.*s\"", between,
                                       names[rand() % 6], 1 + rand() % 20, "12034500000987654321");
            at += (size_t)snprintf(json + at, sizeof json - at, "}");
            if (rand() % 3 == 0)
                json[(size_t)rand() % at] = (char)(rand() % 256);
        }
        taken += same_in(json, at);
    }
    assert_in_range(taken, 10000, 60000);
}

static void the_shorter_way_out_is_as_the_other(void **state) {
    (void)state;
    uint32_t taken = 0, alike = 0;
    srand(12);
    for (uint32_t i = 0; i < 100000; i++) {
        uint8_t bytes[32];
        size_t length = (size_t)rand() % (sizeof bytes + 1);
        for (size_t b = 0; b < length; b++)
            bytes[b] = (uint8_t)(rand() % 3 == 0   ? 8 * (1 + rand() % 3)
                                 : rand() % 2 == 0 ? rand() % 128
                                                   : rand());
        if (i % 3 == 0) { /* values of all lengths */
            Shapes__V1__Sums message = SHAPES__V1__SUMS__INIT;
            message.first_sum = (uint64_t)rand() << (rand() % 33);
            message.a_b_c = UINT64_MAX >> (rand() % 64);
            length = shapes__v1__sums__pack(&message, bytes);
        }
        char *a = NULL, *b = NULL, *flat = NULL;
        int error = gateway_transcode_out(sums, bytes, length, &a);
        int other = gateway_transcode_out(sums_and_text, bytes, length, &b);
        size_t end = b ? strlen(b) - strlen(",\"text\":\"\"}") : 0;
        if (b && strcmp(b + end, ",\"text\":\"\"}") == 0) { /* or the fourth field is there */
            assert_int_equal(error, 0);
            memcpy(b + end, "}", 2);
            assert_string_equal(a, b);
            alike++;
        }
        assert_true(!error || other);
        if (gateway_flat_out(sums, bytes, length, &flat)) {
            assert_string_equal(flat, a);
            taken++;
        }
        free(a);
        free(b);
        free(flat);
    }
    assert_true(taken > 30000 && alike >= taken);
    char *json;
    assert_int_equal(gateway_transcode_out(sums, NULL, 0, &json), 0);
    assert_string_equal(json, "{\"firstSum\":\"0\",\"second\":\"0\",\"aBC\":\"0\"}");
    free(json);
    assert_false(gateway_flat_out(type, NULL, 0, &json));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(whole_numbers_have_64_bits_quoted_or_not),
        cmocka_unit_test(strings_cannot_pass_for_numbers),
        cmocka_unit_test(names_nulls_enums_and_oneofs),
        cmocka_unit_test(bytes_in_every_base64),
        cmocka_unit_test(floats_that_json_lacks),
        cmocka_unit_test(hostile_texts),
        cmocka_unit_test(depth_has_an_end),
        cmocka_unit_test(protobuf_is_made_canonical_or_refused),
        cmocka_unit_test(mutations),
        cmocka_unit_test(the_shorter_way_in_is_as_the_other),
        cmocka_unit_test(random_texts_are_taken_alike),
        cmocka_unit_test(the_shorter_way_out_is_as_the_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
