/* A program outside the tree, built against what was installed: deposits, answered by a callback,
 * then more, answered by polls; prints the balances. */
#include <maroon/error.h>
#include <maroon/gateway.h>
#include <maroon/net.h>
#include <semaphore.h>
#include <stdio.h>

static sem_t answered;
static int status = 1;

/* bank.v1.DepositResponse: field 1 is the balance, a varint. */
static unsigned long balance_of(const struct mrn_gateway_answer *answer) {
    unsigned long balance = 0;
    for (size_t i = 1; i < answer->length_bytes; i++)
        balance |= (unsigned long)(answer->bytes[i] & 127) << 7 * (i - 1);
    return balance;
}

static void on_answer(void *user, const struct mrn_gateway_answer *answer) {
    (void)user;
    printf("error=%d code=%u balance=%lu\n", answer->error, answer->code, balance_of(answer));
    status = answer->error || answer->code;
    sem_post(&answered);
}

/* Three deposits without a callback: each answered once, two at most by one poll. */
static int deposit_and_poll(struct mrn_gateway *gateway,
                            const struct mrn_gateway_request *request) {
    struct mrn_gateway_answer answers[2];
    int users[3];
    unsigned count = 0, seen = 0;
    if (mrn_gateway_poll(gateway, answers, 2, 0))
        return 1; /* the callback's answer is not given again */
    for (unsigned i = 0; i < 3; i++)
        if (mrn_gateway_submit(gateway, request, NULL, &users[i]))
            return 1;
    while (count < 3) {
        unsigned got = mrn_gateway_poll(gateway, answers, 2, 10 * 1000 * 1000);
        if (!got || got > 2)
            return 1;
        for (unsigned i = 0; i < got; i++, count++) {
            unsigned user = (unsigned)((int *)answers[i].user - users);
            if (user > 2 || (seen & 1u << user) || answers[i].error || answers[i].code)
                return 1;
            seen |= 1u << user;
            printf("polled balance=%lu\n", balance_of(&answers[i]));
        }
    }
    return (int)mrn_gateway_poll(gateway, answers, 2, 1000); /* none is left */
}

int main(int argc, char **argv) {
    const char *settings[] = {argc > 1 ? argv[1] : "node-urls", NULL};
    static const unsigned char deposit[] = {0x08, 7, 0x10, 100}; /* account 7, amount 100 */
    const struct mrn_gateway_request request = {.service = "bank.v1.Bank",
                                                .method = "Deposit",
                                                .bytes = deposit,
                                                .length_bytes = sizeof deposit};
    struct mrn_gateway_config config;
    struct mrn_gateway *gateway;
    struct net *net;
    char error[MRN_NET_TEXT_BYTES];
    if (mrn_net_open(settings, &config, &net, error)) {
        printf("%s\n", error);
        return 2;
    }
    sem_init(&answered, 0, 0);
    int code = mrn_gateway_open(&config, net, &gateway);
    if (!code)
        code = mrn_gateway_submit(gateway, &request, on_answer, NULL);
    if (code) {
        printf("%s\n", mrn_error_text(code));
        return 2;
    }
    sem_wait(&answered);
    if (deposit_and_poll(gateway, &request))
        status = 3;
    mrn_gateway_close(gateway);
    mrn_net_close(net);
    return status;
}
