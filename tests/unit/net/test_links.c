/* A memif link that is down is connected again, but not while the driver is connecting it. Its
 * other side is a socket here that says nothing: so the driver waits for its greeting for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "dataplane/net/net.h"

#define STEP_US 20000
#define CONNECTING_US 500000 /* so long it is left alone */
#define LOOKS_US 100000      /* between two looks at it */
#define PATIENCE_MS 60000
#define CALM_MS 200 /* the driver has a thread of its own */

static char dir[] = "/tmp/maroon-links-XXXXXX";
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static int listener;
static struct net *net;
static uint64_t now_us = 1000000;

static int start(void **state) {
    (void)state;
    struct net_config c;
    char text[NET_TEXT_BYTES] = "";
    if (!mkdtemp(dir))
        return 1;
    snprintf(address.sun_path, sizeof address.sun_path, "%s/link", dir);
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) ||
        listen(listener, 8))
        return 1;
    net_config_default(&c, 3000);
    c.fabric = NET_FABRIC_MEMIF;
    c.ipv4 = UINT32_C(0x0a000002);
    c.eal.hugepages = NET_HUGEPAGES_OFF;
    c.port_count = 1;
    c.ports[0].peer_ipv4 = UINT32_C(0x0a000001);
    snprintf(c.ports[0].device, sizeof c.ports[0].device, "%s", address.sun_path);
    if (net_start(&c, &net, text)) {
        print_error("%s\n", text);
        return 1;
    }
    return 0;
}

static int stop(void **state) {
    (void)state;
    assert_int_equal(net_stop(net), 0);
    net_eal_stop();
    close(listener);
    unlink(address.sun_path);
    rmdir(dir);
    return 0;
}

/* The driver's next connection; -1: none comes. */
static int next_connection(int patience_ms) {
    struct pollfd polled = {.fd = listener, .events = POLLIN};
    return poll(&polled, 1, patience_ms) == 1 ? accept(listener, NULL, NULL) : -1;
}

static bool is_given_up(int connection, int patience_ms) {
    struct pollfd polled = {.fd = connection, .events = POLLIN};
    return poll(&polled, 1, patience_ms) != 0;
}

/* The ports' thread goes on for so long; it uses the time that it is told. */
static void turn(uint64_t duration_us) {
    for (uint64_t end_us = now_us + duration_us; now_us < end_us; now_us += STEP_US) {
        struct net_packet packet;
        assert_int_equal(net_rx(net_endpoint(net, WIRE_STAGE_INGRESS), now_us, &packet, 1), 0);
    }
}

static void a_link_that_is_being_connected_is_left_alone(void **state) {
    (void)state;
    int connection = next_connection(PATIENCE_MS);
    assert_true(connection >= 0);
    for (int again = 0; again < 3; again++) {
        turn(CONNECTING_US - STEP_US);
        assert_false(is_given_up(connection, CALM_MS));
        int next = next_connection(0);
        assert_int_equal(next, -1);
        for (uint64_t end_us = now_us + LOOKS_US; next < 0 && now_us <= end_us;) {
            turn(STEP_US);
            next = next_connection(0); /* the port is started, and connects, in our thread */
        }
        assert_true(next >= 0);
        assert_true(is_given_up(connection, PATIENCE_MS));
        close(connection);
        connection = next;
    }
    close(connection);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_link_that_is_being_connected_is_left_alone),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
