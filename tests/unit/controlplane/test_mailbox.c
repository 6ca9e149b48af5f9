#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/stages/mailbox.h"
#include "maroon/error.h"

#define MESSAGES 50000u
#define FACTS 300000u

static void test_depth_must_be_a_power_of_two(void **state) {
    (void)state;
    assert_null(mailbox_create(0));
    assert_null(mailbox_create(3));
}

static void test_full_ring_refuses_and_keeps_order(void **state) {
    (void)state;
    struct mailbox *mailbox = mailbox_create(4);
    struct mailbox_down message = {.kind = MAILBOX_DOWN_LEADER_KEY}, got;
    for (uint64_t i = 0; i < 4; i++) {
        message.revision = i;
        assert_int_equal(mailbox_send_down(mailbox, &message), 0);
    }
    assert_int_equal(mailbox_send_down(mailbox, &message), MRN_ERR_FULL);
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(mailbox_receive_down(mailbox, &got), 1);
        assert_int_equal(got.revision, i);
    }
    assert_int_equal(mailbox_receive_down(mailbox, &got), 0);
    assert_int_equal(mailbox_send_down(mailbox, &message), 0);
    mailbox_destroy(mailbox);
}

static bool is_readable(int fd) {
    struct pollfd polled = {fd, POLLIN, 0};
    return poll(&polled, 1, 0) == 1;
}

static void test_wake_fd_is_readable_until_the_ring_is_empty(void **state) {
    (void)state;
    struct mailbox *mailbox = mailbox_create(4);
    struct mailbox_up message = {.kind = MAILBOX_UP_RESIGN}, got;
    int fd = mailbox_wake_fd(mailbox);
    assert_false(is_readable(fd));
    mailbox_send_up(mailbox, &message);
    mailbox_send_up(mailbox, &message);
    assert_true(is_readable(fd));
    assert_int_equal(mailbox_receive_up(mailbox, &got), 1);
    assert_true(is_readable(fd));
    assert_int_equal(mailbox_receive_up(mailbox, &got), 1);
    assert_int_equal(mailbox_receive_up(mailbox, &got), 0);
    assert_false(is_readable(fd));
    mailbox_destroy(mailbox);
}

static void *send_all(void *context) {
    struct mailbox *mailbox = context;
    for (uint64_t i = 1; i <= MESSAGES;) {
        struct mailbox_up message = {
            .kind = MAILBOX_UP_RANGE_RENEW, .revision = i, .nonce = ~i, .seq = i * 3};
        memset(message.text, (int)(i % 251), sizeof message.text);
        if (mailbox_send_up(mailbox, &message) == 0)
            i++;
        else
            sched_yield();
    }
    return NULL;
}

static void test_two_threads_pass_every_message_whole_and_in_order(void **state) {
    (void)state;
    struct mailbox *mailbox = mailbox_create(16);
    pthread_t thread;
    pthread_create(&thread, NULL, send_all, mailbox);
    for (uint64_t i = 1; i <= MESSAGES;) {
        struct mailbox_up got;
        if (!mailbox_receive_up(mailbox, &got)) {
            /* A message sent after the last look must wake us. */
            struct pollfd polled = {mailbox_wake_fd(mailbox), POLLIN, 0};
            assert_int_equal(poll(&polled, 1, 10000), 1);
            continue;
        }
        assert_int_equal(got.revision, i);
        assert_int_equal(got.nonce, ~i);
        assert_int_equal(got.seq, i * 3);
        assert_int_equal((unsigned char)got.text[0], i % 251);
        assert_int_equal((unsigned char)got.text[sizeof got.text - 1], i % 251);
        i++;
    }
    pthread_join(thread, NULL);
    mailbox_destroy(mailbox);
}

#define ROUNDS 30000u

/* One message at a time, so that each is the last one for a while: none may be left without a
 * wake-up. */
static void *send_one_by_one(void *context) {
    struct mailbox *mailbox = context;
    struct mailbox_up message = {.kind = MAILBOX_UP_RESIGN};
    struct mailbox_down answer;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        mailbox_send_up(mailbox, &message);
        while (!mailbox_receive_down(mailbox, &answer))
            sched_yield();
    }
    return NULL;
}

static void test_no_wake_up_is_lost(void **state) {
    (void)state;
    struct mailbox *mailbox = mailbox_create(4);
    struct mailbox_down answer = {.kind = MAILBOX_DOWN_STOP};
    struct mailbox_up got;
    pthread_t thread;
    pthread_create(&thread, NULL, send_one_by_one, mailbox);
    for (uint32_t i = 0; i < ROUNDS;) {
        if (mailbox_receive_up(mailbox, &got)) {
            mailbox_send_down(mailbox, &answer);
            i++;
        } else {
            struct pollfd polled = {mailbox_wake_fd(mailbox), POLLIN, 0};
            assert_int_equal(poll(&polled, 1, 3000), 1);
        }
    }
    pthread_join(thread, NULL);
    mailbox_destroy(mailbox);
}

/* As the dataplane at rest: takes what is there, else sleeps until something comes. */
static void *answer_between_sleeps(void *context) {
    struct mailbox *mailbox = context;
    struct mailbox_down got;
    const struct mailbox_up answer = {.kind = MAILBOX_UP_CAMPAIGN};
    for (uint32_t i = 0; i < ROUNDS;) {
        if (mailbox_receive_down(mailbox, &got)) {
            mailbox_send_up(mailbox, &answer);
            i++;
            continue;
        }
        struct pollfd polled = {mailbox_down_fd(mailbox), POLLIN, 0};
        int woken = mailbox_sleep_begin(mailbox) ? poll(&polled, 1, 3000) : 0;
        mailbox_sleep_end(mailbox, woken > 0);
        if (!woken && !mailbox_receive_down(mailbox, &got))
            return mailbox; /* nobody woke us, and nothing was there */
        if (!woken) {
            mailbox_send_up(mailbox, &answer);
            i++;
        }
    }
    return NULL;
}

static void test_no_wake_up_of_the_dataplane_is_lost(void **state) {
    (void)state;
    struct mailbox *mailbox = mailbox_create(4);
    const struct mailbox_down question = {.kind = MAILBOX_DOWN_STOP};
    struct mailbox_up got;
    pthread_t thread;
    void *failed = NULL;
    pthread_create(&thread, NULL, answer_between_sleeps, mailbox);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        assert_int_equal(mailbox_send_down(mailbox, &question), 0);
        while (!mailbox_receive_up(mailbox, &got)) {
            struct pollfd polled = {mailbox_wake_fd(mailbox), POLLIN, 0};
            assert_int_equal(poll(&polled, 1, 5000), 1);
        }
    }
    pthread_join(thread, &failed);
    assert_null(failed);
    mailbox_destroy(mailbox);
}

static void *write_facts(void *context) {
    struct mailbox_status *status = context;
    struct mailbox_facts facts;
    for (uint64_t i = 1; i <= FACTS; i++) {
        memset(&facts, (int)(i % 251), sizeof facts);
        facts.commit_seq = i;
        facts.exec_seq = i;
        facts.ranges[MAILBOX_FACTS_RANGES_MAX - 1].range = i;
        mailbox_facts_write(status, &facts);
    }
    return NULL;
}

static void test_facts_are_read_together(void **state) {
    (void)state;
    struct mailbox *mailbox = mailbox_create(4);
    struct mailbox_facts facts = {0};
    pthread_t thread;
    pthread_create(&thread, NULL, write_facts, mailbox_status(mailbox));
    while (facts.commit_seq < FACTS) {
        uint64_t before = facts.commit_seq;
        mailbox_facts_read(mailbox_status(mailbox), &facts);
        assert_true(facts.commit_seq >= before);
        assert_int_equal(facts.exec_seq, facts.commit_seq);
        assert_int_equal(facts.ranges[MAILBOX_FACTS_RANGES_MAX - 1].range, facts.commit_seq);
        if (facts.commit_seq)
            assert_int_equal(facts.state_hash.bytes[7], facts.commit_seq % 251);
    }
    pthread_join(thread, NULL);
    mailbox_destroy(mailbox);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_depth_must_be_a_power_of_two),
        cmocka_unit_test(test_full_ring_refuses_and_keeps_order),
        cmocka_unit_test(test_wake_fd_is_readable_until_the_ring_is_empty),
        cmocka_unit_test(test_two_threads_pass_every_message_whole_and_in_order),
        cmocka_unit_test(test_no_wake_up_is_lost),
        cmocka_unit_test(test_no_wake_up_of_the_dataplane_is_lost),
        cmocka_unit_test(test_facts_are_read_together),
    };
    return cmocka_run_group_tests_name("mailbox", tests, NULL, NULL);
}
