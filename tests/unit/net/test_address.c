/* Addresses: what is read, what is refused, what one machine can have. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "dataplane/net/address.h"
#include <maroon/error.h>

static void reads_addresses(void **state) {
    (void)state;
    uint32_t ipv4 = 0;
    assert_int_equal(net_ipv4_parse("10.1.2.3", &ipv4), 0);
    assert_int_equal(ipv4, 0x0a010203);
    static const char *const bad[] = {"",          "10.1.2",    "10.1.2.3.4", "10.1.2.256",
                                      "10.1.2.3 ", "localhost", "::1",        "10.1.2.-3"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ipv4 = 7;
        assert_int_equal(net_ipv4_parse(bad[i], &ipv4), MRN_ERR_MALFORMED);
        assert_int_equal(ipv4, 7); /* untouched on failure */
    }
}

static void reads_prefixes(void **state) {
    (void)state;
    uint32_t ipv4;
    uint8_t bits;
    assert_int_equal(net_ipv4_prefix_parse("192.168.0.1/20", &ipv4, &bits), 0);
    assert_int_equal(ipv4, 0xc0a80001);
    assert_int_equal(bits, 20);
    assert_int_equal(net_ipv4_prefix_parse("192.168.0.1", &ipv4, &bits), 0);
    assert_int_equal(bits, 32);
    assert_int_equal(net_ipv4_prefix_parse("0.0.0.0/0", &ipv4, &bits), 0);
    assert_int_equal(bits, 0);
    static const char *const bad[] = {"1.2.3.4/33", "1.2.3.4/", "1.2.3.4/-1", "1.2.3.4/8x", "/8"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(net_ipv4_prefix_parse(bad[i], &ipv4, &bits), MRN_ERR_MALFORMED);
}

static void reads_and_writes_endpoints(void **state) {
    (void)state;
    struct net_address address;
    char text[NET_ADDRESS_TEXT_BYTES];
    static const char *const good[] = {"10.0.0.1:3000", "255.255.255.255:65535", "1.2.3.4:1"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(net_address_parse(good[i], &address), 0);
        assert_int_equal(address.reserved, 0);
        assert_string_equal(net_address_format(address, text), good[i]);
    }
    static const char *const bad[] = {"10.0.0.1",       "10.0.0.1:",      "10.0.0.1:0",
                                      "10.0.0.1:65536", ":3000",          "10.0.0.1:4294967297",
                                      "10.0.0.1:3000x", "10.0.0.1:+3000", "a.very.long.name.org:1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(net_address_parse(bad[i], &address), MRN_ERR_MALFORMED);
}

static void knows_what_one_machine_can_have(void **state) {
    (void)state;
    assert_true(net_ipv4_unicast(0x0a000001));
    assert_true(net_ipv4_unicast(0x7f000001));
    assert_true(net_ipv4_unicast(0xdfffffff));
    assert_false(net_ipv4_unicast(0));
    assert_false(net_ipv4_unicast(0x00ffffff));
    assert_false(net_ipv4_unicast(0xe0000001)); /* multicast */
    assert_false(net_ipv4_unicast(UINT32_MAX)); /* broadcast */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_addresses),
        cmocka_unit_test(reads_prefixes),
        cmocka_unit_test(reads_and_writes_endpoints),
        cmocka_unit_test(knows_what_one_machine_can_have),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
