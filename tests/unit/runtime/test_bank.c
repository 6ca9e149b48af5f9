/* bank.v1.Bank and echo.v1.Echo: amounts, refusals, and that the total is the sum. */
#include "support.h"

static struct feed *start(void) {
    struct runtime_config config = small_config();
    struct feed *feed = feed_new(&config);
    feed_open(feed, 0, 5);
    feed_run(feed);
    return feed;
}

static void test_money_moves(void **state) {
    (void)state;
    struct feed *feed = start();
    feed_deposit(feed, 1, 100);
    uint64_t id = feed_transfer(feed, 1, 2, 30);
    feed_withdraw(feed, 2, 5);
    feed_run(feed);
    const struct kept *result = feed_result(feed, id);
    Bank__V1__TransferResponse *response =
        bank__v1__transfer_response__unpack(NULL, result->length_bytes, result->bytes);
    assert_int_equal(response->from_balance, 70);
    assert_int_equal(response->to_balance, 30);
    bank__v1__transfer_response__free_unpacked(response, NULL);
    assert_int_equal(feed_ask_balance(feed, 1), 70);
    assert_int_equal(feed_ask_balance(feed, 2), 25);
    assert_int_equal(feed_ask_balance(feed, 3), 0);
    assert_int_equal(feed_ask_total(feed), 95);
    feed_free(feed);
}

static void test_refusals_change_nothing(void **state) {
    (void)state;
    struct feed *feed = start();
    feed_deposit(feed, 1, 100);
    feed_run(feed);
    feed_withdraw(feed, 1, 101);
    feed_transfer(feed, 1, 9, 101);
    feed_transfer(feed, 8, 1, 1);
    feed_deposit(feed, 2, UINT64_MAX - 99);
    feed_deposit(feed, 1, UINT64_MAX);
    feed_transfer(feed, 1, 1, 101);
    feed_run(feed);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(feed_code(feed, i), MRN_CODE_FAILED_PRECONDITION);
    assert_int_equal(feed_ask_balance(feed, 1), 100);
    assert_int_equal(feed_ask_balance(feed, 2), 0);
    assert_int_equal(feed_ask_total(feed), 100);
    feed_deposit(feed, 2, UINT64_MAX - 100); /* exactly full */
    feed_run(feed);
    assert_int_equal(feed_code(feed, 0), MRN_CODE_OK);
    assert_true(feed_ask_total(feed) == UINT64_MAX);
    feed_free(feed);
}

static void test_transfer_to_itself(void **state) {
    (void)state;
    struct feed *feed = start();
    feed_deposit(feed, 1, 100);
    feed_transfer(feed, 1, 1, 100);
    feed_run(feed);
    assert_int_equal(feed_code(feed, 1), MRN_CODE_OK);
    assert_int_equal(feed_ask_balance(feed, 1), 100);
    feed_free(feed);
}

static void test_total_is_the_sum(void **state) {
    (void)state;
    struct feed *feed = start();
    srand(1);
    for (uint32_t epoch = 0; epoch < 50; epoch++) {
        for (uint32_t i = 0; i < 200; i++) {
            uint64_t a = (uint64_t)rand() % 300, b = (uint64_t)rand() % 300;
            uint64_t amount = (uint64_t)rand() % 1000;
            if (i % 3 == 0)
                feed_deposit(feed, a, amount);
            else if (i % 3 == 1)
                feed_transfer(feed, a, b, amount);
            else
                feed_withdraw(feed, a, amount / 2);
        }
        feed->low_water = wire_tx_offset(feed->next_id) - 100;
        feed_run(feed);
    }
    uint64_t sum = 0;
    for (uint64_t account = 0; account < 300; account++)
        sum += feed_ask_balance(feed, account);
    assert_true(sum > 0);
    assert_int_equal(feed_ask_total(feed), sum);
    feed_free(feed);
}

static void test_echo(void **state) {
    (void)state;
    struct feed *feed = start();
    uint8_t *payload = malloc(1 << 20);
    Echo__V1__EchoRequest request = ECHO__V1__ECHO_REQUEST__INIT;
    for (uint32_t i = 0; i < 1 << 20; i++)
        payload[i] = (uint8_t)(i * 7 + i / 999);
    request.payload.data = payload;
    request.payload.len = (1 << 20) - 4; /* one field header: exactly the limit */
    uint64_t id = feed_message(feed, "echo.v1.Echo", "Echo", &request.base);
    feed_run(feed);
    const struct kept *result = feed_result(feed, id);
    assert_int_equal(result->code, MRN_CODE_OK);
    Echo__V1__EchoResponse *response =
        echo__v1__echo_response__unpack(NULL, result->length_bytes, result->bytes);
    assert_int_equal(response->payload.len, request.payload.len);
    assert_memory_equal(response->payload.data, payload, request.payload.len);
    echo__v1__echo_response__free_unpacked(response, NULL);
    /* and again, in pieces, from what is kept */
    uint8_t *again = malloc(1 << 20);
    uint32_t at = 0, copied;
    struct runtime_result found;
    do {
        assert_int_equal(
            runtime_result_find(feed->runtime, id, at, again + at, 70001, &found, &copied),
            RUNTIME_EXECUTED);
        at += copied;
    } while (at < found.length_bytes);
    assert_int_equal(found.length_bytes, result->length_bytes);
    assert_memory_equal(again, result->bytes, result->length_bytes);
    request.payload.len++; /* one byte over */
    id = feed_message(feed, "echo.v1.Echo", "Echo", &request.base);
    feed_run(feed);
    assert_int_equal(feed_result(feed, id)->code, MRN_CODE_RESOURCE_EXHAUSTED);
    free(again);
    free(payload);
    feed_free(feed);
}

static void test_services_are_listed(void **state) {
    (void)state;
    uint32_t count;
    const struct mrn_application *const *list = applications_list(&count);
    const struct mrn_service *bank = mrn_service_find(list, count, "bank.v1.Bank");
    assert_non_null(bank);
    assert_non_null(protobuf_c_service_descriptor_get_method_by_name(bank->descriptor, "Transfer"));
    assert_non_null(mrn_service_find(list, count, "echo.v1.Echo"));
    assert_null(mrn_service_find(list, count, "bank.v1.Ban"));
    assert_string_equal(mrn_code_text(MRN_CODE_FAILED_PRECONDITION), "failed_precondition");
    assert_int_equal(mrn_code_http_status(MRN_CODE_RESOURCE_EXHAUSTED), 429);
    assert_int_equal(mrn_code_http_status(4711), 500);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_money_moves),
                                       cmocka_unit_test(test_refusals_change_nothing),
                                       cmocka_unit_test(test_transfer_to_itself),
                                       cmocka_unit_test(test_total_is_the_sum),
                                       cmocka_unit_test(test_echo),
                                       cmocka_unit_test(test_services_are_listed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
