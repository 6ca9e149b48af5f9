/* The library as a program holds it, against a node that never answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include <maroon/error.h>
#include <maroon/gateway.h>
#include <maroon/net.h>

static struct net *net;
static struct mrn_gateway_config config;
static const struct mrn_gateway_request request = {
    .service = "bank.v1.Bank", .method = "Total", .bytes = "", .timeout_us = 60 * 1000 * 1000};

static int start(void **state) {
    (void)state;
    const char *settings[] = {"node-urls=/ip4/127.0.0.1/udp/9", NULL};
    char error[MRN_NET_TEXT_BYTES];
    return mrn_net_open(settings, &config, &net, error);
}

static int stop(void **state) {
    (void)state;
    mrn_net_close(net);
    return 0;
}

static _Atomic uint32_t closed;

static void on_answer(void *user, const struct mrn_gateway_answer *answer) {
    (void)user;
    closed += answer->error == MRN_ERR_CLOSED;
}

static void *submit_until_closed(void *context) {
    struct mrn_gateway *gateway = context;
    uintptr_t taken = 0;
    for (int error = 0; error != MRN_ERR_CLOSED;) {
        error = mrn_gateway_submit(gateway, &request, on_answer, NULL);
        if (error && error != MRN_ERR_FULL && error != MRN_ERR_CLOSED)
            return NULL;
        taken += !error;
    }
    return (void *)taken;
}

static void test_threads_may_submit_while_it_stops(void **state) {
    (void)state;
    enum { THREADS = 3 };
    for (int round = 0; round < 20; round++) {
        struct mrn_gateway *gateway;
        pthread_t threads[THREADS];
        closed = 0;
        assert_int_equal(mrn_gateway_open(&config, net, &gateway), 0);
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, submit_until_closed, gateway), 0);
        mrn_gateway_stop(gateway);
        uintptr_t taken = 0;
        for (int i = 0; i < THREADS; i++) {
            void *by_one;
            assert_int_equal(pthread_join(threads[i], &by_one), 0);
            taken += (uintptr_t)by_one;
        }
        assert_int_equal(closed, taken); /* what was taken is answered, once */
        mrn_gateway_close(gateway);
    }
}

static void test_a_stopped_one_gives_what_is_left(void **state) {
    (void)state;
    struct mrn_gateway *gateway;
    struct mrn_gateway_answer answers[4];
    assert_int_equal(mrn_gateway_open(&config, net, &gateway), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(mrn_gateway_submit(gateway, &request, NULL, NULL), 0);
    assert_int_equal(mrn_gateway_query(gateway, 1, 0, on_answer, NULL), 0);
    closed = 0;
    mrn_gateway_stop(gateway);
    assert_int_equal(closed, 1);
    assert_int_equal(mrn_gateway_poll(gateway, answers, 2, 1000), 2);
    assert_int_equal(answers[0].error, MRN_ERR_CLOSED);
    assert_int_equal(mrn_gateway_poll(gateway, answers, 2, 1000), 1);
    assert_int_equal(mrn_gateway_poll(gateway, answers, 2, 60 * 1000 * 1000), 0); /* at once */
    assert_int_equal(mrn_gateway_submit(gateway, &request, NULL, NULL), MRN_ERR_CLOSED);
    assert_int_equal(mrn_gateway_query(gateway, 1, 0, on_answer, NULL), MRN_ERR_CLOSED);
    mrn_gateway_stop(gateway); /* no harm */
    mrn_gateway_close(gateway);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_may_submit_while_it_stops),
        cmocka_unit_test(test_a_stopped_one_gives_what_is_left),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
