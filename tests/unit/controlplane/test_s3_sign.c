/* Known answers: the four examples of "Signature Calculations for the Authorization Header" in the
 * public S3 API reference, with its example keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "controlplane/store/s3_sign.h"
#include "controlplane/store/s3_xml.h"
#include "maroon/error.h"

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define HOST "examplebucket.s3.amazonaws.com"
#define TIME "20130524T000000Z"

static void expect(const char *method, const char *path, struct s3_field *query, size_t query_count,
                   struct s3_field *headers, size_t header_count, const char *payload,
                   const char *signature) {
    struct s3_signed_request request = {
        .method = method,
        .path = path,
        .query = query,
        .query_count = query_count,
        .headers = headers,
        .header_count = header_count,
        .payload_sha256 = payload,
        .access_key = "AKIAIOSFODNN7EXAMPLE",
        .secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        .region = "us-east-1",
        .service = "s3",
        .time = TIME,
    };
    char authorization[1024];
    assert_int_equal(s3_sign(&request, authorization, sizeof authorization), 0);
    const char *at = strstr(authorization, "Signature=");
    assert_non_null(at);
    assert_string_equal(at + strlen("Signature="), signature);
    assert_int_equal(s3_sign(&request, authorization, 50), MRN_ERR_FULL);
}

static void test_get_object_with_a_range(void **state) {
    (void)state;
    struct s3_field headers[] = {{"x-amz-date", TIME},
                                 {"x-amz-content-sha256", EMPTY},
                                 {"range", "bytes=0-9"},
                                 {"host", HOST}};
    expect("GET", "/test.txt", NULL, 0, headers, 4, EMPTY,
           "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

static void test_put_object(void **state) {
    (void)state;
    char hash[S3_SHA256_HEX], path[64];
    s3_sha256_hex("Welcome to Amazon S3.", 21, hash);
    assert_string_equal(hash, "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072");
    assert_int_equal(s3_encode("/test$file.text", 1, path, sizeof path), 17);
    assert_string_equal(path, "/test%24file.text");
    struct s3_field headers[] = {{"date", "Fri, 24 May 2013 00:00:00 GMT"},
                                 {"host", HOST},
                                 {"x-amz-content-sha256", hash},
                                 {"x-amz-date", TIME},
                                 {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
    expect("PUT", path, NULL, 0, headers, 5, hash,
           "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

static void test_query_without_a_value(void **state) {
    (void)state;
    struct s3_field query[] = {{"lifecycle", ""}};
    struct s3_field headers[] = {
        {"host", HOST}, {"x-amz-content-sha256", EMPTY}, {"x-amz-date", TIME}};
    expect("GET", "/", query, 1, headers, 3, EMPTY,
           "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

static void test_query_is_sorted(void **state) {
    (void)state;
    struct s3_field query[] = {{"prefix", "J"}, {"max-keys", "2"}};
    struct s3_field headers[] = {
        {"host", HOST}, {"x-amz-content-sha256", EMPTY}, {"x-amz-date", TIME}};
    expect("GET", "/", query, 2, headers, 3, EMPTY,
           "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void test_encoding(void **state) {
    (void)state;
    char text[64];
    struct s3_field query[] = {{"b", "x y/z"}, {"a", "+&="}, {"a", "%"}};
    assert_true(s3_encode_query(query, 3, text, sizeof text) > 0);
    assert_string_equal(text, "a=%25&a=%2B%26%3D&b=x%20y%2Fz");
    assert_int_equal(s3_encode_query(query, 3, text, 10), MRN_ERR_FULL);
    assert_int_equal(s3_encode("\xc3\xa4~", 0, text, sizeof text), 7);
    assert_string_equal(text, "%C3%A4~");
    s3_time_text(1369353600, text);
    assert_string_equal(text, TIME);
}

static void collect(void *context, const char *parent, const char *name, const char *text) {
    char *into = context;
    size_t used = strlen(into);
    snprintf(into + used, 256 - used, "%s/%s=%s;", parent, name, text);
}

static void test_xml(void **state) {
    (void)state;
    char found[256] = "";
    const char *good = "<?xml version='1.0'?><A xmlns='u'><B><C>1 &lt; 2</C></B><D/></A>";
    assert_int_equal(s3_xml_walk(good, strlen(good), collect, found), 0);
    assert_string_equal(found, "B/C=1 < 2;A/B=;A/D=;/A=;");
    static const char *const bad[] = {
        "",
        "<A>",
        "<A></B>",
        "plain",
        "<A>&x;</A>",
        "<!DOCTYPE A [<!ENTITY x 'y'>]><A>&x;</A>",
        "<a><a><a><a><a><a><a><a><a></a></a></a></a></a></a></a></a></a>",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(s3_xml_walk(bad[i], strlen(bad[i]), collect, found), MRN_ERR_MALFORMED);
    char large[S3_XML_TEXT_MAX + 32];
    int count = snprintf(large, sizeof large, "<A>%0*d</A>", S3_XML_TEXT_MAX, 7);
    assert_int_equal(s3_xml_walk(large, (size_t)count, collect, found), MRN_ERR_MALFORMED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get_object_with_a_range),
        cmocka_unit_test(test_put_object),
        cmocka_unit_test(test_query_without_a_value),
        cmocka_unit_test(test_query_is_sorted),
        cmocka_unit_test(test_encoding),
        cmocka_unit_test(test_xml),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
